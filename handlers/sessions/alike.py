"""Decodes the records of a batch together, as the columns of one array, where their bytes are alike.

Records are alike when they have one state each, were made by the same version of the same model, and have answers of the same length: the
steps of one model leave such records. All others are decoded one by one, as `record.Record` says.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
from xxhash import xxh3_64_digest

from handlers.sessions.record import CHECKSUM_BYTES, HEADER, HEADER_BYTES, POSITION_BYTES, START, Record
from handlers.sessions.state import MAX_POSITION, CorruptState, State

FEW = 12  # records; as many are decoded faster one by one


def decode_many(values: Sequence[bytes]) -> list[Record | CorruptState]:
    """Decode stored values of any format, in their order; of a value that cannot be decoded the error."""
    if len(values) > FEW and len(set(map(len, values))) == 1:
        records = _decode_alike(values)
        if records is not None:
            return records
    return [_decode(value) for value in values]


def _decode(value: bytes) -> Record | CorruptState:
    try:
        return Record.decode(value)
    except CorruptState as e:
        return e


def _decode_alike(values: Sequence[bytes]) -> list[Record | CorruptState] | None:
    """Decode values of one length; None where they are not alike, or one of them is damaged."""
    layout = _layout(values[0])
    if layout is None or b"".join([xxh3_64_digest(value[:-CHECKSUM_BYTES]) for value in values]) != b"".join(
        [value[-CHECKSUM_BYTES:] for value in values]
    ):
        return None
    rows = np.frombuffer(b"".join(values), layout)
    if any((rows[name] != rows[name][0]).any() for name in ("start", "form", "version")) or rows["position"].max() > MAX_POSITION:
        return None
    digest, version = rows["form"][0].tobytes()[:16], rows["version"][0].tobytes().decode()
    states = map(State, rows["values"], rows["position"].tolist(), repeat(digest))
    columns = [rows[name].tolist() for name in ("created_at", "expires_at", "last_step", "last_hash", "last_generation", "answer")]
    more = [rows[name].tolist() for name in ("rewind_hash", "generation")]
    return list(map(Record, states, *columns, repeat(version), *more))


def _layout(value: bytes) -> np.dtype[Any] | None:
    """Return how the bytes of a record are laid out that has one state, an answer and nothing else; None for another."""
    if len(value) < HEADER_BYTES or not value.startswith(START):
        return None
    _, _, closed, kept, _, _, _, _, _, _, _, _, size, version, answer, _, _, rows, forecasts = HEADER.unpack_from(value)
    if closed or kept or rows or forecasts or not version or not answer:
        return None
    layout = _fields(version, answer, size)
    return layout if layout.itemsize == len(value) else None


@lru_cache(maxsize=64)
def _fields(version: int, answer: int, size: int) -> np.dtype[Any]:
    """Return the fields of such a record; `form` are those of the header that are equal where records are alike."""
    fields: list[Any] = [("start", "<u8"), ("created_at", "<f8"), ("expires_at", "<f8"), ("last_step", "<u8"), ("last_hash", "V16")]
    fields += [("last_generation", "<u8"), ("rewind_hash", "V16"), ("generation", "<u8"), ("form", "<u4", (9,))]
    fields += [("version", "u1", (version,)), ("answer", f"V{answer}"), ("position", "<u8"), ("values", "<f4", (size,)), ("checksum", "V8")]
    layout = np.dtype(fields)
    assert layout.fields is not None
    assert layout.fields["version"][1] == HEADER_BYTES
    assert layout.fields["checksum"][1] == layout.fields["position"][1] + POSITION_BYTES + 4 * size
    return layout
