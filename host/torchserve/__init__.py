"""Start, watch, drain and stop one TorchServe."""
