"""Responses that are errors, made of the service's error tree; each protocol has its own form of them."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from handlers import errors
from handlers.errors import CellstateError, ConfigurationError
from openapi.schema import BOOLEAN, NUMBER, TEXT, Schema, constant, integer, one_of, record, ref, text

REMARKS = re.compile(r"^    [│ ]*(?:├──|└──) (\w+) +\d{3} +(.*)$", re.MULTILINE)  # of the tree that the module's docstring draws
HOST_STATUSES = (404, 500, 503, 507)  # that TorchServe itself answers, with a body
HOST_REASONS = {
    404: "there is no such model or version, or no such path",
    500: "the worker died with the request inside; the same step may be sent again",
    503: "the queue is full, or no worker is up; the same step may be sent again",
    507: "the worker died with the request inside; the same step may be sent again",
}
OVER_ITS_LIMIT = "TorchServe: the body is over its own limit; this answer has no body"  # 413
DETAILS = {
    "session": text("The session's id."),
    "expected": integer("The step that the session is at."),
    "generation": integer("The session's generation."),
    "version": text("The version of the model that has the session's state."),
    "limit": NUMBER | {"description": "What the quota allows."},
}


def leaves() -> list[type[CellstateError]]:
    """Return every error that can become a response, in the order of the tree."""
    return [kind for kind in _below(CellstateError) if not any(_below(kind)) and kind is not ConfigurationError]


def _below(kind: type[CellstateError]) -> Iterator[type[CellstateError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _below(child)


def remarks() -> dict[str, str]:
    """Return what the tree says of each error, by class."""
    return dict(REMARKS.findall(errors.__doc__ or ""))


def by_status() -> dict[int, list[type[CellstateError]]]:
    """Return the errors by their status, in ascending order."""
    statuses = sorted({kind.status for kind in leaves()})
    return {status: [kind for kind in leaves() if kind.status == status] for status in statuses}


def schemas() -> dict[str, Schema]:
    """Return the schemas of every error: in the native form, in one text, and TorchServe's own."""
    said = remarks()
    found = {kind.__name__: _native(kind, said.get(kind.__name__, "")) for kind in leaves()}
    found["ErrorDetails"] = record(DETAILS, description="What a program may read of an error.")
    found["Error"] = one_of(*(ref(kind.__name__) for kind in leaves()), description="An error of one request, or of one of many.")
    found["HostError"] = record(
        {"code": integer("The HTTP status."), "type": TEXT, "message": TEXT}, ["code", "type", "message"], "An error of TorchServe itself."
    )
    return found


def _native(kind: type[CellstateError], remark: str) -> Schema:
    properties: dict[str, Schema] = {"code": constant(kind.code), "message": TEXT, "details": ref("ErrorDetails")}
    required = ["code", "message", "details"]
    if kind.retryable:
        properties["retryable"] = BOOLEAN | {"const": True, "description": "Sending the same request again is safe and may succeed."}
        required.append("retryable")
    return record(properties, required, f"{kind.status}: {remark}")


def responses(native: bool) -> dict[str, Any]:
    """Return the responses of a path whose errors are one text, or also objects (`native`), for it takes native requests as well."""
    statuses = sorted({*by_status(), *HOST_STATUSES})
    return {str(status): _response(status, native) for status in statuses}


def _response(status: int, native: bool) -> dict[str, Any]:
    kinds = by_status().get(status, [])
    schema = ([_object(kinds)] if native else []) + [_text(kinds)] if kinds else []
    reasons = [f"`{kind.code}`: {remarks()[kind.__name__]}" for kind in kinds]
    if status in HOST_STATUSES:
        schema.append(ref("HostError"))
        reasons.append(f"TorchServe: {HOST_REASONS[status]}")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        reasons.append(OVER_ITS_LIMIT)
    return {
        "description": f"{HTTPStatus(status).phrase}. " + "; ".join(reasons) + ".",
        **_headers(kinds, status),
        "content": {"application/json": {"schema": schema[0] if len(schema) == 1 else one_of(*schema)}},
    }


def _object(kinds: list[type[CellstateError]]) -> Schema:
    error = ref(kinds[0].__name__) if len(kinds) == 1 else one_of(*(ref(kind.__name__) for kind in kinds))
    return record({"error": error}, ["error"])


def _text(kinds: list[type[CellstateError]]) -> Schema:
    codes = "|".join(kind.code for kind in kinds)
    pattern = rf"^(instances\[[0-9]+\]: )?({codes}): "
    return record({"error": text("The code, and the message.", pattern=pattern)}, ["error"])


def _headers(kinds: list[type[CellstateError]], status: int) -> dict[str, Any]:
    """Return the headers of an error response; one is required where every answer of that status has it."""
    names = sorted({name for kind in kinds for name in kind("").headers})
    found = {}
    for name in names:
        always = all(name in kind("").headers for kind in kinds) and status not in HOST_STATUSES
        found[name] = {**HEADERS[name], "required": always}
    return {"headers": found} if found else {}


HEADERS: dict[str, dict[str, Any]] = {
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "WWW-Authenticate": {"description": "How to authenticate (RFC 9110, 11.6.1).", "schema": TEXT},
}
