"""Load a deployment with Locust and check every answer."""
