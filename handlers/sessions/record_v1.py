"""Reads records of format 1, which earlier releases wrote. Their last answer is a fragment of JSON; here it becomes arrays by name.

Layout, little-endian: header, answer, the states (the current one, then kept earlier ones, newest first) as state bytes without MAC, the
recent inputs, and one MAC (handlers/sessions/state.py).
"""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from handlers.arrays import Array, Floats
from handlers.sessions import state
from handlers.sessions.state import MAC_BYTES, CorruptState, State

MAGIC, FORMAT = b"CSRE", 1
HEADER = struct.Struct("<4sBBHddQ16sIBxHI")
KINDS: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class RecordV1:
    """A record of format 1. `last_digest` is the request hash of whatever request was applied last."""

    state: State
    created_at: float
    expires_at: float
    last_step: int
    last_digest: bytes
    arrays: Mapping[str, Floats]
    closed: bool
    history: tuple[State, ...]
    recent: Array | None


def decode(data: bytes) -> RecordV1:
    """Decode a stored value.

    Raises:
        CorruptState: the bytes are damaged.
    """
    body = state.verify_mac(data)
    if len(body) < HEADER.size:
        raise CorruptState("shorter than its header")
    _, _, closed, kept, created, expires, last_step, last_digest, length, kind, columns, rows = HEADER.unpack_from(body)
    if kind not in KINDS:
        raise CorruptState(f"recent inputs of kind {kind}")
    start, stop = HEADER.size + length, len(body) - KINDS[kind].itemsize * rows * max(columns, 1)
    if stop < start:
        raise CorruptState("its parts do not fill its length")
    current, *history = _states(body[start:stop], kept + 1)
    recent = _inputs(body[stop:], kind, columns, rows)
    arrays = _arrays(body[HEADER.size : start])
    return RecordV1(current, created, expires, last_step, last_digest, arrays, bool(closed), tuple(history), recent)


def encode(record: RecordV1, answer: bytes) -> bytes:
    """Encode a record as earlier releases did, for the tests; `answer` is the JSON fragment."""
    recent = record.recent
    kind = 0 if recent is None or recent.dtype.kind == "f" else 1
    columns, rows = (0, 0) if recent is None else (recent.shape[1] if recent.ndim == 2 else 0, len(recent))
    head = HEADER.pack(
        MAGIC, FORMAT, record.closed, len(record.history), record.created_at, record.expires_at, record.last_step, record.last_digest,
        len(answer), kind, columns, rows,
    )  # fmt: skip
    states = b"".join(state.pack(kept) for kept in (record.state, *record.history))
    return state.append_mac(head + answer + states + (b"" if recent is None else recent.astype(KINDS[kind]).tobytes()))


def _states(data: bytes, count: int) -> list[State]:
    """Decode `count` states of equal length, end to end."""
    size, rest = divmod(len(data), count)
    if rest:
        raise CorruptState("its states do not fill its length")
    return [state.unpack(data[i * size : (i + 1) * size]) for i in range(count)]


def _inputs(data: bytes, kind: int, columns: int, rows: int) -> Array | None:
    if not rows:
        return None
    values: Array = np.frombuffer(data, KINDS[kind])
    return values.reshape(rows, columns) if columns else values


def _arrays(fragment: bytes) -> dict[str, Floats]:
    """Decode the fields of a JSON reply. Its numbers are float32 in their shortest spelling, so that nothing is lost."""
    try:
        fields = orjson.loads(b"{" + fragment + b"}")
        return {name: _opaque(value) if isinstance(value, str) else np.array(value, np.float32) for name, value in fields.items()}
    except (ValueError, TypeError) as e:
        raise CorruptState(f"its answer cannot be read: {e}") from e


def _opaque(text: str) -> Floats:
    """Return the values of an opaque state string; the record's own MAC vouches for it."""
    packed = base64.urlsafe_b64decode(text)[:-MAC_BYTES]
    return state.unpack(packed, signed=bool(packed[6] & state.SIGNED)).values
