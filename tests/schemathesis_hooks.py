"""What an OpenAPI description cannot say, for schemathesis; tests/schemathesis.toml loads this file into schemathesis' own environment."""

import json
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

MAX_BODY = 4_000_000  # bytes; a little more, and TorchServe answers 413 without a body


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out bodies that never reach the service."""
    body = case.body
    if not isinstance(body, dict | list):
        return True
    return len(json.dumps(body)) <= MAX_BODY


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Send what a link says as it stands, instead of merging it with another request of the same operation."""
    for response in raw_schema["components"]["responses"].values():
        for link in response.get("links", {}).values():
            link["x-schemathesis"] = {"merge_body": False}


@schemathesis.check
def invalid_data_is_rejected(ctx: Any, response: Any, case: Any) -> None:
    """The check of the same purpose, where a row that fails alone is rejected, too."""
    if response.status_code != 200 or not has_failed_row(response.json()):
        negative_data_rejection(ctx, response, case)


def has_failed_row(reply: Any) -> bool:
    """Whether a reply to many requests holds an error."""
    if not isinstance(reply, dict):
        return False
    statuses = [output["data"] for output in reply.get("outputs", ()) if output["name"] == "status"]
    return any("error" in row for row in reply.get("predictions", ()) if isinstance(row, dict)) or any(map(any_error, statuses))


def any_error(statuses: list[int]) -> bool:
    return any(status >= 400 for status in statuses)
