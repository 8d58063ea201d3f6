"""Show the result of a load test as one self-contained HTML file."""
