"""The description of the HTTP API in OpenAPI 3.1, made of the service's own names, limits, errors and patterns.

`python -m openapi > docs/openapi.yaml` writes it again; a test compares the file with the code.
"""
