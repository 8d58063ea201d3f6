"""docs/openapi.yaml as a validator of requests and replies."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

PATH = Path(__file__).parents[2] / "docs" / "openapi.yaml"
DESCRIPTION: dict[str, Any] = yaml.safe_load(PATH.read_text())
NATIVE, OPEN_INFERENCE, KSERVE_V1 = "/predictions/{model}", "/v2/models/{model}/infer", "/v1/models/{model}:predict"
JSON = "application/json"


def resolved(item: dict[str, Any]) -> dict[str, Any]:
    """The item that a reference names; any other as it is."""
    found: Any = item
    if "$ref" in item:
        found = DESCRIPTION
        for name in item["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return dict(found)


def body(path: str) -> dict[str, Any]:
    """The JSON body of a path's requests: its schema and examples."""
    return dict(resolved(DESCRIPTION["paths"][path]["post"]["requestBody"])["content"][JSON])


def response(path: str, status: int) -> dict[str, Any]:
    """The response of a path with that status."""
    return resolved(DESCRIPTION["paths"][path]["post"]["responses"][str(status)])


@cache
def _validator(path: str, status: int) -> Draft202012Validator:
    schema = response(path, status)["content"][JSON]["schema"] if status else body(path)["schema"]
    return Draft202012Validator(schema | {"components": DESCRIPTION["components"]})


def is_request(path: str, document: Any) -> bool:
    """Whether the description allows a request."""
    return bool(_validator(path, 0).is_valid(document))


def check_reply(path: str, status: int, document: Any, headers: Any = None) -> None:
    """A reply is one that the description promises."""
    _validator(path, status).validate(document)
    for name, header in response(path, status).get("headers", {}).items():
        assert headers is None or name in headers or not header.get("required"), f"{status} without {name}"
