"""What a response says of a session: where it is, until when, and what became of the request."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from msgspec import Struct

from handlers.sessions.record import Record


class SessionDescription(Struct):
    """What only `describe` tells. `last_step` is the position before the last step, `model_digest` belongs to the state's model."""

    created_at: float
    last_step: int
    model_digest: bytes
    scores: Mapping[str, Any] | None = None  # of the session's own predictions, where something judges them
    time: str | None = None  # of the last step, where the stream has times
    rewarm: str = ""  # how many recent inputs the session has to be rebuilt from, or why it keeps none


class SessionStatus(Struct):
    """Where a session is after a request. `expires_at` is seconds since the epoch."""

    id: str
    step: int
    expires_at: float
    generation: int = 0
    replayed: bool = False  # the request was applied before, and is answered again
    closed: bool = False
    rewarmed: bool = False  # the state was rebuilt from the session's recent inputs
    rebuilt: str = ""  # how close it then is to the state that the whole stream would have led to
    description: SessionDescription | None = None


def status(id: str, record: Record, replayed: bool = False) -> SessionStatus:
    """Return the status of the session with that record."""
    return SessionStatus(id, record.state.position, record.expires_at, record.generation, replayed, record.closed)


def described(id: str, record: Record, scores: Mapping[str, Any] | None = None, time: str | None = None, rewarm: str = "") -> SessionStatus:
    """Return the status of a session with its description."""
    found = status(id, record)
    found.description = SessionDescription(record.created_at, record.last_step, record.state.digest, scores, time, rewarm)
    return found


def timestamp(seconds: float) -> str:
    """Format a time as RFC 3339, UTC, in whole seconds."""
    return _timestamp(int(seconds))


@lru_cache(maxsize=64)  # a batch's sessions expire in the same second
def _timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
