"""Servers that others wrote, serving the benchmarks' model: windows, and for Triton steps of sequences that end with it."""
