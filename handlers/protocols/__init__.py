"""Bytes to requests, results to bytes: one codec for each protocol."""
