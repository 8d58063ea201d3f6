"""The record of a session: what is committed as one value, and its bytes.

Layout of format 1, little-endian: header, answer, the states (the current one, then kept earlier ones, newest first), the recent inputs,
seal. States are state bytes without their seal (handlers/sessions/state.py); one seal covers all of it.
"""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.sessions import state
from handlers.sessions.state import CorruptState, State

MAGIC, FORMAT = b"CSRE", 1
HEADER = struct.Struct("<4sBBHddQ16sIBxHI")
KINDS: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<i8")}  # of the recent inputs: features, token ids

MOST_COLUMNS = 2**16 - 1  # of the recent inputs

Inputs = npt.NDArray[Any]  # [W, F] float32, or [W] int64


@dataclass(frozen=True, slots=True)
class Record:
    """State, position, the last request's digest and its answer; earlier states and recent inputs when configured."""

    state: State
    created_at: float  # seconds since the epoch, as all times here
    expires_at: float
    last_step: int  # the position before the last applied request
    last_digest: bytes  # 16 bytes
    answer: bytes  # the answer to it, without the session field
    closed: bool = False
    history: tuple[State, ...] = ()  # earlier states, newest first
    recent: Inputs | None = None  # the last inputs consumed

    def left_by(self, digest: bytes) -> bool:
        """Whether the session is as this request, which applied no step, left it."""
        return self.last_step == self.state.position and self.last_digest == digest

    def earlier(self, position: int) -> State | None:
        """The kept state at `position`."""
        return next((kept for kept in (self.state, *self.history) if kept.position == position), None)

    def tombstone(self, now: float) -> "Record":
        """What closing leaves: position and last answer, no state."""
        bare = State(np.empty(0, np.float32), self.state.position, self.state.digest)
        return replace(self, state=bare, expires_at=now, closed=True, history=(), recent=None)

    def rewound(self, target: State, digest: bytes, expires_at: float) -> "Record":
        """The record back at `target`, one of its kept states, by a request of that digest."""
        history = tuple(kept for kept in self.history if kept.position < target.position)
        return Record(target, self.created_at, expires_at, target.position, digest, b"", history=history)

    def encode(self) -> bytes:
        """One sealed value for a store."""
        kind, columns, rows, inputs = _pack_inputs(self.recent)
        states = b"".join(state.pack(kept) for kept in (self.state, *self.history))
        head = HEADER.pack(
            MAGIC, FORMAT, self.closed, len(self.history), self.created_at, self.expires_at, self.last_step, self.last_digest,
            len(self.answer), kind, columns, rows,
        )  # fmt: skip
        return state.seal(head + self.answer + states + inputs)

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """Read a stored value. Raises CorruptState."""
        body = state.unseal(data)
        if len(body) < HEADER.size:
            raise CorruptState("shorter than its header")
        magic, version, closed, kept, created, expires, last_step, digest, length, kind, columns, rows = HEADER.unpack_from(body)
        if magic != MAGIC or version != FORMAT:
            raise CorruptState(f"record format {version}, this release reads {FORMAT}")
        start = HEADER.size + length
        inputs = KINDS[kind].itemsize * rows * max(columns, 1)
        current, *history = _states(body[start : len(body) - inputs], kept + 1)
        recent = _unpack_inputs(body[len(body) - inputs :], kind, columns, rows)
        return cls(current, created, expires, last_step, digest, body[HEADER.size : start], bool(closed), tuple(history), recent)


def was_closed(data: bytes) -> bool:
    """Whether stored bytes are a closed session's tombstone, by their header alone; bytes that are no record are none."""
    return len(data) > HEADER.size and HEADER.unpack_from(data)[:3] == (MAGIC, FORMAT, True)


def _states(data: bytes, count: int) -> list[State]:
    """`count` states of equal length, end to end."""
    size, rest = divmod(len(data), count)
    if rest:
        raise CorruptState("its states do not fill its length")
    return [state.unpack(data[i * size : (i + 1) * size]) for i in range(count)]


def _pack_inputs(recent: Inputs | None) -> tuple[int, int, int, bytes]:
    """Kind, columns (0 for token ids), rows, bytes."""
    if recent is None:
        return 0, 0, 0, b""
    kind = 0 if recent.dtype.kind == "f" else 1
    return kind, recent.shape[1] if recent.ndim == 2 else 0, len(recent), recent.astype(KINDS[kind]).tobytes()


def _unpack_inputs(data: bytes, kind: int, columns: int, rows: int) -> Inputs | None:
    if not rows:
        return None
    values: Inputs = np.frombuffer(data, KINDS[kind])
    return values.reshape(rows, columns) if columns else values
