"""The bytes of an earlier state of a session, which the store keeps as a part of the session's record.

Layout of format 1, little-endian:

    header            `HEADER` below
    values            S float32 values
    forecasts         what the stream's forecasts remembered at that position
    checksum          XXH3-64 of all bytes before it
"""

import struct

import numpy as np
from xxhash import xxh3_64_digest

from handlers.sessions.state import CorruptState, State

MAGIC, FORMAT = b"CSKS", 1
HEADER = struct.Struct("<4sB3xQ16sII")  # magic, format, position, model digest, S, length of the forecasts
CHECKSUM_BYTES = 8


def pack_kept(state: State) -> bytes:
    """Encode an earlier state."""
    forecast = state.forecast
    header = HEADER.pack(MAGIC, FORMAT, state.position, state.digest, state.values.size, len(forecast))
    body = header + np.ascontiguousarray(state.values, dtype="<f4").tobytes() + forecast
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
    if (magic, version) != (MAGIC, FORMAT) or len(body) != start + length:
        raise CorruptState("an earlier state is not of the format that this release reads")
    return State(np.frombuffer(body, "<f4", size, HEADER.size), position, digest, body[start:])
