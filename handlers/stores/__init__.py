"""Session stores: one interface, three implementations."""
