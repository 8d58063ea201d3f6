"""The record of a session: everything that is committed for it, as one value, and that value's bytes.

Layout of format 4, little-endian:

    header            `HEADER` below
    version           the version of the model that made the last answer, ASCII
    answer            the arrays of the last answer, by name: `pack_arrays`
    state             position (8 bytes), then S float32 values
    earlier states    the positions of those that are kept, newest first, 8 bytes each; the states themselves are parts of the record's
                      entry in the store (`handlers/sessions/kept.py`), so that a step writes only the one that is new
    recent inputs     the last inputs consumed: `handlers/sessions/recent.py`; absent where none are kept
    forecasts         what the stream's forecasts remember: length (2 bytes), then bytes; absent where that is empty
    checksum          XXH3-64 of all bytes before it

The formats of earlier releases are still read: format 3, whose recent inputs are rows without a head; format 2, which also has the values
of each earlier state after its position, and its forecasts after those of the current state; format 1 (`handlers/sessions/record_v1.py`).
A record without recent inputs is the same in formats 3 and 4, and is written as format 3; one without earlier states either as format 2.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_64_digest

from handlers.arrays import Floats
from handlers.sessions import recent, record_v1
from handlers.sessions.state import MAX_POSITION, CorruptState, State

MAGIC, FORMAT = b"CSRE", 4
INLINE, HEADLESS = 2, 3  # the format whose earlier states are within the record, and the last one whose recent inputs have no head
START, START_KEPT, START_RECENT = [MAGIC + bytes([version]) for version in (INLINE, HEADLESS, FORMAT)]
PREFIX = struct.Struct("<4sBB")  # magic, format, closed: the same in every format
# … kept states, created, expires; last step, hash and generation; rewind hash, generation, model digest, S; lengths of version and answer;
# kind, columns and rows of the recent inputs; length of the forecasts
HEADER = struct.Struct("<4sBBHddQ16sQ16sQ16sIBIBHII")
POSITION = struct.Struct("<Q")
LENGTH = struct.Struct("<H")
FLOAT32 = np.dtype("<f4")
HEADER_BYTES, POSITION_BYTES, CHECKSUM_BYTES = HEADER.size, POSITION.size, 8
NO_HASH = bytes(16)


class Record(Struct):
    """A session's state and position, what its last request was, and its answer; earlier states where configured.

    Records are replaced, never changed in place. Times are seconds since the epoch, hashes 16 bytes.
    """

    state: State
    created_at: float
    expires_at: float
    last_step: int  # the position before the last applied step; the current one where no step was applied yet
    last_hash: bytes = NO_HASH  # of the last applied step, or of the fork or import that made the session
    last_generation: int = 0  # the generation in which it was applied
    answer: bytes = b""  # the arrays of the answer to it, packed
    version: str = ""  # of the model that made the answer
    rewind_hash: bytes = NO_HASH  # of the rewind that left the session as it is; a step clears it
    generation: int = 0  # how often the session was rewound
    closed: bool = False
    kept: tuple[int, ...] = ()  # positions of earlier states, newest first
    unstored: tuple[State, ...] = ()  # the first states of `kept`, which the store does not have apart from the record yet

    @property
    def stored(self) -> tuple[int, ...]:
        """The positions of `kept` whose states are in the store."""
        return self.kept[len(self.unstored) :]

    def tombstone(self, now: float) -> "Record":
        """Return what remains of the session after it was closed: position and last answer, no state."""
        bare = State(np.empty(0, np.float32), self.state.position, self.state.digest, self.state.forecast)  # a replay tells the times
        return replace(self, state=bare, expires_at=now, closed=True, kept=(), unstored=())

    def rewound(self, target: State, rewind_hash: bytes, expires_at: float) -> "Record":
        """Return the record after a rewind to `target`, a kept state. The last answer is kept where `target` is the current state."""
        changed = replace(self, rewind_hash=rewind_hash, generation=self.generation + 1, expires_at=expires_at)
        if target is self.state:
            return changed
        kept = tuple([position for position in self.kept if position < target.position])
        unstored = tuple([state for state in self.unstored if state.position < target.position])
        changed = replace(changed, state=target, last_step=target.position, last_hash=NO_HASH, answer=b"")
        return replace(changed, kept=kept, unstored=unstored)

    def encode(self) -> bytes:
        """Encode the record, without the earlier states."""
        state, kept, version = self.state, self.kept, self.version.encode()
        kind, columns, rows, inputs = recent.NONE if state.recent is None else state.recent.encode()
        forecast = LENGTH.pack(len(state.forecast)) + state.forecast if state.forecast else b""
        form = FORMAT if inputs else HEADLESS if kept else INLINE
        header = HEADER.pack(
            MAGIC, form, self.closed, len(kept), self.created_at, self.expires_at, self.last_step, self.last_hash,
            self.last_generation, self.rewind_hash, self.generation, state.digest, state.values.size, len(version),
            len(self.answer), kind, columns, rows, len(forecast),
        )  # fmt: skip
        earlier = struct.pack(f"<{len(kept)}Q", *kept) if kept else b""
        body = b"".join((header, version, self.answer, POSITION.pack(state.position), state.values.data, earlier, inputs, forecast))
        return body + xxh3_64_digest(body)

    @classmethod
    def decode(cls, data: bytes) -> "Record":
        """Decode a stored value of any format.

        Raises:
            CorruptState: the bytes are damaged, or of a newer release.
        """
        if data.startswith((START, START_KEPT, START_RECENT)):
            return _decode(data)
        if len(data) < PREFIX.size or not data.startswith(MAGIC):
            raise CorruptState("it does not begin as a record does")
        version = data[4]
        if version == record_v1.FORMAT:
            return _upgraded(record_v1.decode(data))
        raise CorruptState(f"record format {version}, this release reads {record_v1.FORMAT} to {FORMAT}")


def was_closed(data: bytes) -> bool:
    """Whether the first bytes of a stored value belong to a closed session's record; bytes that are no record do not."""
    if len(data) < PREFIX.size:
        return False
    magic, version, closed = PREFIX.unpack_from(data)
    return bool(magic == MAGIC and record_v1.FORMAT <= version <= FORMAT and closed == 1)


def pack_arrays(arrays: Mapping[str, Floats]) -> bytes:
    """Encode float32 arrays by name: name and shape of each, then its values."""
    packed = b""
    for name, array in arrays.items():
        packed += _array_head(name, array.shape) + array.tobytes()
    return packed


def unpack_arrays(data: bytes) -> dict[str, Floats]:
    """Decode what `pack_arrays` encoded. The arrays are read-only views of `data`.

    Raises:
        CorruptState: `data` is something else.
    """
    arrays, offset = {}, 0
    try:
        while offset < len(data):
            length, dimensions = data[offset], data[offset + 1]
            start = offset + 2 + length
            shape = struct.unpack_from(f"<{dimensions}I", data, start)
            start += 4 * dimensions
            count = int(np.prod(shape, dtype=object)) if shape else 1
            array = np.frombuffer(data, "<f4", count, start).reshape(shape) if count else np.empty(shape, np.float32)
            arrays[data[offset + 2 : offset + 2 + length].decode()] = array
            offset = start + 4 * count
    except (IndexError, ValueError, struct.error) as e:
        raise CorruptState(f"its answer cannot be read: {e}") from e
    return arrays


@lru_cache(maxsize=1024)
def _array_head(name: str, shape: tuple[int, ...]) -> bytes:
    encoded = name.encode()
    return struct.pack(f"<BB{len(encoded)}s{len(shape)}I", len(encoded), len(shape), encoded, *shape)


def _decode(data: bytes) -> Record:
    end = len(data) - CHECKSUM_BYTES
    if end < HEADER_BYTES:
        raise CorruptState("shorter than its header")
    if xxh3_64_digest(data[:end]) != data[end:]:
        raise CorruptState("its checksum does not match")
    (
        _, version, closed, count, created, expires, last_step, last_hash, last_generation, rewind_hash, generation, digest, size,
        version_length, answer_length, kind, columns, rows, forecasts_length,
    ) = HEADER.unpack_from(data)  # fmt: skip
    answer_start, stride = HEADER_BYTES + version_length, POSITION_BYTES + 4 * size
    states_start = answer_start + answer_length
    earlier_start = states_start + stride
    inputs_start = earlier_start + count * (stride if version == INLINE else POSITION_BYTES)
    forecasts_start = end - forecasts_length
    inputs_bytes = recent.length(kind, columns, rows, version == FORMAT)
    if closed > 1 or inputs_bytes is None or inputs_start + inputs_bytes != forecasts_start:
        raise CorruptState("its parts do not fill its length")
    state = _state(data, states_start, size, digest)
    kept: tuple[int, ...] = ()
    unstored: tuple[State, ...] = ()
    if count and version == INLINE:
        unstored = _inline(data, earlier_start, count, size, digest)
        kept = tuple([earlier.position for earlier in unstored])
    elif count:
        kept = struct.unpack_from(f"<{count}Q", data, earlier_start)
    if forecasts_length:
        _unpack_forecasts((state, *unstored), data[forecasts_start:end])
    if rows and version == FORMAT:
        state.recent = recent.decode(data, inputs_start, kind, columns, rows)
    elif rows:
        state.recent = recent.without_head(recent.decode_rows(data, inputs_start, kind, columns, rows), state.position)
    try:
        model_version = data[HEADER_BYTES:answer_start].decode()
    except UnicodeDecodeError as e:
        raise CorruptState("the version of its model is no text") from e
    return Record(
        state, created, expires, last_step, last_hash, last_generation, data[answer_start:states_start], model_version, rewind_hash,
        generation, closed == 1, kept, unstored,
    )  # fmt: skip


def _inline(data: bytes, start: int, count: int, size: int, digest: bytes) -> tuple[State, ...]:
    """Return the earlier states of a record that has them within itself."""
    return tuple([_state(data, start + i * (POSITION_BYTES + 4 * size), size, digest) for i in range(count)])


def _state(data: bytes, start: int, size: int, digest: bytes) -> State:
    (position,) = POSITION.unpack_from(data, start)
    if position > MAX_POSITION:
        raise CorruptState(f"position {position} is out of range")
    return State(np.frombuffer(data, FLOAT32, size, start + POSITION_BYTES), position, digest)


def _unpack_forecasts(states: Sequence[State], data: bytes) -> None:
    """Give each of the states its part of `data`."""
    start = 0
    for state in states:
        if start + LENGTH.size > len(data):
            break
        (length,) = LENGTH.unpack_from(data, start)
        start += LENGTH.size
        state.forecast = data[start : start + length]
        start += length
    else:
        if start == len(data):
            return
    raise CorruptState("its forecasts do not fill their length")


def _upgraded(old: record_v1.RecordV1) -> Record:
    """Bring a record of format 1 up to date. There, the last request may have been a rewind; it left `last_step` at the position."""
    maybe_rewound = old.last_step == old.state.position
    inputs = None if old.recent is None else recent.without_head(old.recent, old.state.position)
    return Record(
        state=replace(old.state, recent=inputs),
        created_at=old.created_at,
        expires_at=old.expires_at,
        last_step=old.last_step,
        last_hash=old.last_digest,
        answer=pack_arrays(old.arrays),
        rewind_hash=old.last_digest if maybe_rewound else NO_HASH,
        closed=old.closed,
        kept=tuple([state.position for state in old.history]),
        unstored=old.history,
    )
