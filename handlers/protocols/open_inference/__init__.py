"""The Open Inference Protocol, version 2, in JSON and with its binary tensor data extension."""
