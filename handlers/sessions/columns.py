"""The records of many sessions as columns: read as the rows of one structured array where their bytes are alike, and written as one.

Records are alike when they have one state each, belong to one model, and have versions, answers, memories of forecasts and room for recent
inputs of the same lengths: the steps of one model leave such records. All others are for `record.Record`, which knows every form.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from handlers.arrays import Array, Floats
from handlers.sessions.recent import KINDS
from handlers.sessions.record import CHECKSUM_BYTES, HEADER, HEADER_BYTES, LENGTH, START, START_RECENT, Record
from handlers.sessions.state import MAX_POSITION


def read_alike(values: Sequence[bytes | None]) -> tuple[list[int], Array]:
    """Return which of the stored values are intact and alike, and those as rows; a value that is not there is None."""
    lengths = [0 if value is None else len(value) for value in values]
    [(length, _)] = Counter(filter(None, lengths)).most_common(1) or [(0, 0)]
    chosen = [i for i, each in enumerate(lengths) if each == length]
    data = b"".join([value for value in values if value is not None and len(value) == length])
    layout = _layout(data[: length - CHECKSUM_BYTES]) if length > CHECKSUM_BYTES else None
    if layout is None:
        return [], np.empty(0)
    rows = np.frombuffer(data, [("record", layout), ("checksum", ">u8")])
    alike = _alike(rows["record"]) & (rows["checksum"] == _checksums(memoryview(data), length))
    if alike.all():
        return chosen, rows["record"]
    return [i for i, is_alike in zip(chosen, alike.tolist(), strict=True) if is_alike], rows["record"][alike]


def _checksums(data: memoryview, length: int) -> npt.NDArray[np.uint64]:
    """Return the checksum of each of the records in `data`, which take `length` bytes with it."""
    size = length - CHECKSUM_BYTES
    return np.array([xxh3_64_intdigest(data[start : start + size]) for start in range(0, len(data), length)], np.uint64)


def _alike(rows: Array) -> npt.NDArray[np.bool_]:
    """Return which rows are as the first one, whose bytes gave the layout."""
    first, names = rows[0], rows.dtype.names or ()
    alike = (rows["start"] == first["start"]) & (rows["position"] <= MAX_POSITION)
    for name in ("form", "digest"):
        alike &= (rows[name] == first[name]).all(axis=1)
    alike &= (rows["version"] < 128).all(axis=1)
    return np.asarray(alike & (rows["length"] == rows.dtype["forecast"].itemsize) if "forecast" in names else alike)


class NewRecords:
    """Records to be written, `count` of them: copies of `example`, whose columns are then set.

    `rows` has the fields of `_fields`.
    """

    def __init__(self, example: Record, count: int) -> None:
        body = example.encode()[:-CHECKSUM_BYTES]
        layout = _layout(body)
        assert layout is not None  # the example is the record of a step
        self._values: Array = np.empty(count, [("record", layout), ("checksum", ">u8")])
        self.rows: Array = self._values["record"]
        self.rows[:] = np.frombuffer(body, layout)[0]

    def floats(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return the float32 values of that shape at the end of a field, `[count, *shape]`, to be written to."""
        fields = self.rows.dtype.fields
        assert fields is not None
        kind, offset = fields[name][:2]
        start = offset + kind.itemsize - 4 * int(np.prod(shape))
        strides = (self._values.itemsize, *np.empty(shape, np.float32).strides)
        return np.ndarray((len(self.rows), *shape), "<f4", self._values.data, start, strides)

    def encode(self) -> list[bytes]:
        """Encode the records, each as `Record.encode` does."""
        size, data = self._values.itemsize, self._values.data.cast("B")
        self._values["checksum"] = _checksums(data, size)
        return [bytes(data[start : start + size]) for start in range(0, len(data), size)]


def _layout(body: bytes) -> np.dtype[Any] | None:
    """Return the fields of a record that has one state, an answer, perhaps recent inputs and a memory, and no more; None for another."""
    if len(body) < HEADER_BYTES or not body.startswith((START, START_RECENT)):
        return None
    _, _, closed, kept, _, _, _, _, _, _, _, _, size, version, answer, kind, columns, rows, forecasts = HEADER.unpack_from(body)
    if closed or kept or kind not in KINDS or not version or not answer or 0 < forecasts <= LENGTH.size:
        return None
    if (rows > 0) != body.startswith(START_RECENT):  # the inputs of earlier releases have no head
        return None
    layout = _fields(version, answer, size, kind, columns, rows, forecasts)
    return layout if layout.itemsize == len(body) else None


@lru_cache(maxsize=64)
def _fields(version: int, answer: int, size: int, kind: int, columns: int, rows: int, forecasts: int) -> np.dtype[Any]:
    """Return the fields of such a record before its checksum; `form` are the lengths, which are equal where records are alike."""
    fields: list[Any] = [("start", "<u8"), ("created_at", "<f8"), ("expires_at", "<f8"), ("last_step", "<u8"), ("last_hash", "V16")]
    fields += [("last_generation", "<u8"), ("rewind_hash", "V16"), ("generation", "<u8"), ("digest", "<u8", (2,)), ("form", "<u4", (5,))]
    fields += [("version", "u1", (version,)), ("answer", f"V{answer}"), ("position", "<u8"), ("values", "<f4", (size,))]
    if rows:
        fields += [("known", "<u4"), ("begins", "<u4"), ("layout", "V8"), ("recent", KINDS[kind], (rows, columns) if columns else (rows,))]
    if forecasts:
        fields += [("length", "<u2"), ("forecast", f"V{forecasts - LENGTH.size}")]
    return np.dtype(fields)
