"""Start, watch, drain and stop a TorchServe. Runs beside the server, not inside a worker, and is in no archive."""
