"""State bytes: the portable form of one row's hidden state. There is no pickle in them, and lengths are checked before memory is taken.

Layout of format 1, little-endian, 44 bytes of header, then the values, then the MAC:

    offset  size  field
    0       4     magic "CSST"
    4       1     format, 1
    5       1     dtype, 1 = float32
    6       2     flags, bit 0 = signed
    8       8     position: steps consumed
    16      16    model digest
    32      8     number of values S
    40      4     reserved, 0
    44      4*S   values: the state tensors in signature order, each flattened [rows, size]
    …       16    MAC: BLAKE2b-128 of all bytes before it, keyed when a key is configured

Without a key the MAC is a checksum; with one it authenticates the state (RFC 7693, keyed mode).
"""

import base64
import hashlib
import hmac
import struct

import numpy as np
from msgspec import Struct

from handlers.arrays import Vector
from handlers.errors import InvalidInput, ModelChanged, TooLarge
from handlers.sessions.recent import Recent
from handlers.signature import Signature

MAGIC, FORMAT, FLOAT32, SIGNED = b"CSST", 1, 1, 1
HEADER = struct.Struct("<4sBBHQ16sQI")
MAC_BYTES = 16
MAX_POSITION = 2**53  # the largest integer that every JSON client keeps exact


class CorruptState(ValueError):
    """Bytes that are no intact state or record; the text says what is wrong with them."""


class State(Struct):
    """One row's hidden state: all layers and directions of all state tensors, the position, and the model that made it.

    States are replaced, never changed in place: they may be views of stored bytes.
    """

    values: Vector  # [S]
    position: int
    digest: bytes  # 16 bytes of the model digest
    forecast: bytes = b""  # what the stream's forecasts remember at this position; a session keeps it, state bytes do not carry it
    recent: Recent | None = None  # the stream's inputs up to this position; a session keeps them, state bytes do not carry them


def append_mac(body: bytes, key: bytes = b"") -> bytes:
    """Append the MAC of `body` to it."""
    return body + hashlib.blake2b(body, digest_size=MAC_BYTES, key=key).digest()


def verify_mac(data: bytes, key: bytes = b"") -> bytes:
    """Return `data` without its MAC.

    Raises:
        CorruptState: a bit of `data` changed, or it was signed with another key.
    """
    body, tag = data[:-MAC_BYTES], data[-MAC_BYTES:]
    if not hmac.compare_digest(tag, hashlib.blake2b(body, digest_size=MAC_BYTES, key=key).digest()):
        raise CorruptState("its checksum or signature does not match")
    return body


def pack(state: State, signed: bool = False) -> bytes:
    """Encode header and values, without a MAC."""
    header = HEADER.pack(MAGIC, FORMAT, FLOAT32, SIGNED if signed else 0, state.position, state.digest, state.values.size, 0)
    return header + np.ascontiguousarray(state.values, dtype="<f4").tobytes()


def unpack(body: bytes, signed: bool = False) -> State:
    """Decode what `pack` encoded. The state's values are a read-only view of `body`.

    Raises:
        CorruptState: `body` is no state of this format.
    """
    if len(body) < HEADER.size:
        raise CorruptState(f"{len(body)} bytes are shorter than the header of {HEADER.size}")
    magic, version, dtype, flags, position, digest, count, reserved = HEADER.unpack_from(body)
    if magic != MAGIC:
        raise CorruptState("it does not begin with the magic of a state")
    if version != FORMAT or dtype != FLOAT32:
        raise CorruptState(f"format {version}, dtype {dtype}; this release reads format {FORMAT}, dtype {FLOAT32}")
    if flags != (SIGNED if signed else 0) or reserved:  # a later release may give them a meaning, which must not pass unread
        raise CorruptState(f"flags {flags}, reserved {reserved}; expected {SIGNED if signed else 0} and 0")
    if len(body) != HEADER.size + 4 * count or position > MAX_POSITION:
        raise CorruptState("its length does not match its header")
    return State(np.frombuffer(body, dtype="<f4", offset=HEADER.size), position, digest)


def to_text(state: State, key: bytes = b"") -> str:
    """Encode the opaque string that a client holds: URL-safe base64 of state bytes and MAC."""
    return base64.urlsafe_b64encode(append_mac(pack(state, signed=bool(key)), key)).decode("ascii")


def text_length(signature: Signature) -> int:
    """Return the length of this model's opaque strings, in characters."""
    return (HEADER.size + 4 * signature.state_length + MAC_BYTES + 2) // 3 * 4


def _decode(text: str) -> bytes:
    """Decode base64, in its canonical spelling only, so that no two strings are one state."""
    data = base64.b64decode(text, altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(data) != text.encode():
        raise CorruptState("it is spelt otherwise than this service does")
    return data


def from_text(text: str, signature: Signature, key: bytes = b"") -> State:
    """Decode and verify an opaque string for this model.

    A string of more than four times this model's length is refused before it is decoded. Up to that it is decoded, so that the intact
    state of a larger model can be told from a damaged one.

    Raises:
        TooLarge: the string cannot be a state of this model.
        InvalidInput: the string is damaged, forged, or holds values that are not finite.
        ModelChanged: it is an intact state of another model.
    """
    if len(text) > 4 * text_length(signature):
        raise TooLarge(
            f"state: {len(text)} characters, this model's state has {text_length(signature)}: send the string as it was returned"
        )
    try:
        state = unpack(verify_mac(_decode(text), key), signed=bool(key))
    except (CorruptState, ValueError) as e:
        raise InvalidInput(f"state: not an intact state string ({e}): send it as it was returned by this service") from e
    if state.digest != signature.digest or state.values.size != signature.state_length:
        raise ModelChanged(f"state: it belongs to another model than {signature.label}: start again, or ask the model that made it")
    if not np.isfinite(state.values).all():
        raise InvalidInput("state: holds values that are not finite")
    return state
