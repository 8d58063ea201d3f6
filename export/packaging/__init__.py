"""Read checkpoints and write archives."""
