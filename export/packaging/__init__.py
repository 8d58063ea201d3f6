"""Checkpoints in, archives out."""
