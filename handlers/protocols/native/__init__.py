"""The service's own JSON protocol: requests in, replies out."""
