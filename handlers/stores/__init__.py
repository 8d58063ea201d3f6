"""Where sessions are kept: one contract, three implementations."""
