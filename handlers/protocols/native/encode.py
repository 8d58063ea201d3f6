"""The HTTP contract's response side: results and errors in, JSON bytes out. We encode ourselves: compact, and never a NaN.

It knows the signature and field names. It does not know positions, stores or how a result came about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from handlers.errors import CellstateError
from handlers.inference.backends.base import Floats
from handlers.inference.batching import Row, split
from handlers.sessions import state as state_format
from handlers.sessions.state import State
from handlers.signature import Signature

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one HTTP request is answered with."""

    status: int
    phrase: str
    body: bytes


def refusal(error: CellstateError) -> bytes:
    """`{"error": {…}}`."""
    return orjson.dumps({"error": error.body()})


def result(row: Row, forecast: Floats | None, wants: tuple[str, ...], position: int, signature: Signature, key: bytes) -> bytes:
    """The fields that were asked for, without the braces around them, so that others can be put beside them."""
    fields: dict[str, Any] = {}
    if "prediction" in wants:
        fields["prediction"] = row.y
    if forecast is not None:
        fields["forecast"] = forecast
    if "output" in wants:
        fields["output"] = row.output
    if any(entry.output in wants for entry in signature.state):
        for entry, array in zip(signature.state, split(row.state[None], signature), strict=True):
            if entry.output in wants:
                fields[entry.output] = array[:, 0]  # [L*D, size]
    if "state" in wants:
        fields["state"] = state_format.to_text(State(row.state, position, signature.digest), key)
    return orjson.dumps({name: _plain(value) for name, value in fields.items()}, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def state_text(state: State, key: bytes) -> bytes:
    """The `state` field alone, as a fragment."""
    return orjson.dumps({"state": state_format.to_text(state, key)})[1:-1]


def _plain(value: Any) -> Any:
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value


def response(fragment: bytes, signature: Signature, session: dict[str, Any] | None) -> bytes:
    """One whole response object: a result's fields, the model, the session."""
    around: dict[str, Any] = {"model": {"name": signature.name, "version": signature.version}}
    if session is not None:
        around["session"] = session
    rest = orjson.dumps(around)
    return b"{" + fragment + b"," + rest[1:] if fragment else rest


def predictions(replies: Sequence[bytes]) -> bytes:
    """The answer to `instances`."""
    return b'{"predictions":[' + b",".join(replies) + b"]}"
