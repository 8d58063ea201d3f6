"""One batch of requests, from decoded to committed."""
