"""The bytes of an earlier state of a session, which the store keeps as a part of the session's record.

Layout of format 2, little-endian:

    header            `HEADER` below
    values            S float32 values
    forecasts         what the stream's forecasts remembered at that position
    shape             kind (1 byte), columns (2) and rows (4) of the recent inputs
    recent inputs     the inputs up to that position: `handlers/sessions/recent.py`
    checksum          XXH3-64 of all bytes before it

A state without recent inputs ends after the forecasts, and is of format 1.
"""

import struct

import numpy as np
from xxhash import xxh3_64_digest

from handlers.sessions import recent
from handlers.sessions.state import CorruptState, State

MAGIC, FORMAT, BARE = b"CSKS", 2, 1
HEADER = struct.Struct("<4sB3xQ16sII")  # magic, format, position, model digest, S, length of the forecasts
SHAPE = struct.Struct("<BHI")
CHECKSUM_BYTES = 8


def pack_kept(state: State) -> bytes:
    """Encode an earlier state."""
    forecast, inputs = state.forecast, b""
    if state.recent is not None:
        *shape, rows = state.recent.encode()
        inputs = SHAPE.pack(*shape) + rows
    header = HEADER.pack(MAGIC, FORMAT if inputs else BARE, state.position, state.digest, state.values.size, len(forecast))
    body = header + np.ascontiguousarray(state.values, dtype="<f4").tobytes() + forecast + inputs
    return body + xxh3_64_digest(body)


def unpack_kept(data: bytes) -> State:
    """Decode an earlier state. Its values are a read-only view of `data`.

    Raises:
        CorruptState: the bytes are damaged, or of a newer release.
    """
    body = data[:-CHECKSUM_BYTES]
    if xxh3_64_digest(body) != data[-CHECKSUM_BYTES:]:
        raise CorruptState("the checksum of an earlier state does not match")
    if len(body) < HEADER.size:
        raise CorruptState("an earlier state is shorter than its header")
    magic, version, position, digest, size, length = HEADER.unpack_from(body)
    start = HEADER.size + 4 * size
    end = start + length
    if magic != MAGIC or version not in (FORMAT, BARE) or not _ends(body, end, version):
        raise CorruptState("an earlier state is not of the format that this release reads")
    inputs = None if version == BARE else recent.decode(body, end + SHAPE.size, *SHAPE.unpack_from(body, end))
    return State(np.frombuffer(body, "<f4", size, HEADER.size), position, digest, body[start:end], inputs)


def _ends(body: bytes, end: int, version: int) -> bool:
    """Whether what follows the forecasts, which end at `end`, fills the body."""
    if version == BARE or len(body) < end + SHAPE.size:
        return version == BARE and len(body) == end
    length = recent.length(*SHAPE.unpack_from(body, end))
    return length is not None and length > 0 and len(body) == end + SHAPE.size + length
