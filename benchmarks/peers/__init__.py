"""Servers that others wrote, serving the benchmarks' model: windows only, for none of them keeps sessions."""
