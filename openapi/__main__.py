"""Print the description as YAML: `python -m openapi`."""

from openapi.document import as_yaml

if __name__ == "__main__":
    print(as_yaml(), end="")
