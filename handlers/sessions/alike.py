"""Decodes the records of a batch together, as the columns of one array, where their bytes are alike.

Records are alike when they have one state each, were made by the same version of the same model, and have answers and memories of forecasts
of the same length: the steps of one model leave such records. All others are decoded one by one, as `record.Record` says.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

import numpy as np
from xxhash import xxh3_64_digest

from handlers.arrays import Array
from handlers.sessions.record import CHECKSUM_BYTES, HEADER, HEADER_BYTES, LENGTH, START, Record
from handlers.sessions.state import MAX_POSITION, CorruptState, State

FEW = 12  # records; as many are decoded faster one by one
IN_ORDER = ("created_at", "expires_at", "last_step", "last_hash", "last_generation", "answer", "version", "rewind_hash", "generation")


def decode_many(values: Sequence[bytes]) -> list[Record | CorruptState]:
    """Decode stored values of any format, in their order; of a value that cannot be decoded the error."""
    if len(values) > FEW and len(set(map(len, values))) == 1:
        rows = _rows(values)
        if rows is not None:
            return list(_records(rows))
    return [_decode(value) for value in values]


def _decode(value: bytes) -> Record | CorruptState:
    try:
        return Record.decode(value)
    except CorruptState as e:
        return e


def _rows(values: Sequence[bytes]) -> Array | None:
    """Return values of one length as the rows of a structured array; None where they are not alike, or one of them is damaged."""
    layout = _layout(values[0])
    if layout is None:
        return None
    bodies = [value[:-CHECKSUM_BYTES] for value in values]
    if [value[-CHECKSUM_BYTES:] for value in values] != list(map(xxh3_64_digest, bodies)):
        return None
    rows = np.frombuffer(b"".join(bodies), layout)
    equal = all((rows[name] == rows[name][0]).all() for name in ("start", "form", "version"))
    whole = "forecast" not in (layout.names or ()) or (rows["length"] == layout["forecast"].itemsize).all()
    return rows if equal and whole and rows["position"].max() <= MAX_POSITION else None


def _records(rows: Array) -> Sequence[Record]:
    version, digest = rows["version"][0].tobytes().decode(), rows["form"][0].tobytes()[:16]
    forecasts = rows["forecast"].tolist() if "forecast" in (rows.dtype.names or ()) else repeat(b"")
    states = map(State, rows["values"], rows["position"].tolist(), repeat(digest), forecasts)
    columns = [repeat(version) if name == "version" else rows[name].tolist() for name in IN_ORDER]
    return list(map(Record, states, *columns))


def _layout(value: bytes) -> np.dtype[Any] | None:
    """Return the fields of a record that has one state, an answer, perhaps a memory, and nothing else; None for another."""
    if len(value) < HEADER_BYTES or not value.startswith(START):
        return None
    _, _, closed, kept, _, _, _, _, _, _, _, _, size, version, answer, _, _, recent, forecasts = HEADER.unpack_from(value)
    if closed or kept or recent or not version or not answer or 0 < forecasts <= LENGTH.size:
        return None
    layout = _fields(version, answer, size, forecasts)
    return layout if layout.itemsize == len(value) - CHECKSUM_BYTES else None


@lru_cache(maxsize=64)
def _fields(version: int, answer: int, size: int, forecasts: int) -> np.dtype[Any]:
    """Return the fields of such a record before its checksum; `form` are those of the header that are equal where records are alike."""
    fields: list[Any] = [("start", "<u8"), ("created_at", "<f8"), ("expires_at", "<f8"), ("last_step", "<u8"), ("last_hash", "V16")]
    fields += [("last_generation", "<u8"), ("rewind_hash", "V16"), ("generation", "<u8"), ("form", "<u4", (9,))]
    fields += [("version", "u1", (version,)), ("answer", f"V{answer}"), ("position", "<u8"), ("values", "<f4", (size,))]
    if forecasts:
        fields += [("length", "<u2"), ("forecast", f"V{forecasts - LENGTH.size}")]
    return np.dtype(fields)
