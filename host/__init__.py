"""Start, watch, drain and stop a TorchServe. Runs beside the server, not inside a worker, and is in no archive."""

VERSION = "0.1.0"  # of the service and its commands
