"""Many series at once, sent to a server: warm starts and backtests."""
