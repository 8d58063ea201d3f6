"""Sequences of any length through one model, in batches."""
