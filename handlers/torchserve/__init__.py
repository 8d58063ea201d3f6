"""What is known of TorchServe's worker: its socket, its logs, its way of carrying metrics."""
