"""Start, watch, drain and stop a real TorchServe. Runs beside the server, never inside a worker; ships in no archive."""
