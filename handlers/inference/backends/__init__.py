"""The runtimes that run an exported model, behind one interface."""
