"""The recent inputs of a stream, from which another version of the model can rebuild its state, and their bytes.

Layout, little-endian:

    known             how many rows are inputs of the stream (4 bytes); the rows before them are zeros
    begins            1 if the first of those is the first input of a stream that began as new ones do (4 bytes), else 0
    layout            which inputs the columns are (8 bytes): `layout` below; zeros: not known, all features of the model
    rows              W rows of C float32 values, or W token ids, int64; their kind, C and W stand in the header of what holds them

All records of a model's sessions have room for as many rows, however long the stream is, so that they are alike.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from xxhash import xxh3_64_digest

from handlers.arrays import Array

HEAD = struct.Struct("<II8s")  # known, begins, layout
KINDS: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<i8")}  # features, token ids
UNKNOWN = bytes(8)
NONE = 0, 0, 0, b""  # of a state without recent inputs: kind, columns, rows, bytes


class Recent(Struct, frozen=True):
    """The last inputs of a stream. `rows` are `[W, C]` or `[W]`, of which the last `known` are inputs.

    The rows are kept as bytes: a step cuts off the first of them and appends its own.
    """

    kind: int
    columns: int  # C, 0 for token ids
    room: int  # W
    known: int
    begins: bool
    layout: bytes
    data: bytes  # of the rows

    @property
    def rows(self) -> Array:
        """The rows, `[W, C]` or `[W]`, read-only."""
        values: Array = np.frombuffer(self.data, KINDS[self.kind])
        return values.reshape(-1, self.columns) if self.columns else values

    @property
    def inputs(self) -> Array:
        """The inputs that are known, `[known, C]` or `[known]`, oldest first."""
        return self.rows[self.room - self.known :]

    def covers(self, steps: int) -> bool:
        """Whether the inputs reach back `steps` steps, or to the start of the stream."""
        return self.known > 0 and (self.begins or self.known >= steps)

    def followed_by(self, inputs: Array) -> "Recent":
        """Return the recent inputs after some more, `[T, C]` float32 or `[T]` int64."""
        room, known, begins, data = self.room, self.known + len(inputs), self.begins, self.data
        if known > room:
            known, begins = room, False
        return Recent(self.kind, self.columns, room, known, begins, self.layout, (data + inputs.tobytes())[-len(data) :])

    def encode(self) -> tuple[int, int, int, bytes]:
        """Return kind, columns, rows and bytes."""
        return self.kind, self.columns, self.room, HEAD.pack(self.known, self.begins, self.layout) + self.data


def empty(room: int, columns: int, layout: bytes, begins: bool) -> Recent:
    """Return the recent inputs of a stream of which none is known; `columns` is 0 for token ids, `room` at least 1."""
    kind = 0 if columns else 1
    return Recent(kind, columns, room, 0, begins, layout, bytes(room * _row_bytes(kind, columns)))


def length(kind: int, columns: int, rows: int, has_head: bool = True) -> int | None:
    """Return how many bytes `encode` gives for such inputs; None for a kind that is not known, or not of so many columns."""
    if not rows:
        return 0 if kind in KINDS else None
    if kind != (columns == 0):
        return None
    return HEAD.size * has_head + _row_bytes(kind, columns) * rows


def _row_bytes(kind: int, columns: int) -> int:
    return KINDS[kind].itemsize * max(columns, 1)


def decode(data: bytes, start: int, kind: int, columns: int, rows: int) -> Recent:
    """Decode what `encode` encoded, from `start` on. Of a head that makes no sense no input is known."""
    known, begins, layout_ = HEAD.unpack_from(data, start)
    if known > rows:
        known, begins = 0, 0
    start += HEAD.size
    stop = start + _row_bytes(kind, columns) * rows
    return Recent(kind, columns, rows, known, begins == 1, layout_, data[start:stop])


def without_head(rows: Array, position: int) -> Recent:
    """Return the recent inputs that an earlier release kept, `[W, C]` or `[W]`, of a stream at `position`."""
    kind, columns = (0, rows.shape[1]) if rows.ndim == 2 else (1, 0)
    return Recent(kind, columns, len(rows), len(rows), len(rows) >= position, UNKNOWN, rows.astype(KINDS[kind], copy=False).tobytes())


def decode_rows(data: bytes, start: int, kind: int, columns: int, rows: int) -> Array:
    """Return rows without a head, `[rows, columns]`, or `[rows]` token ids."""
    values: Array = np.frombuffer(data, KINDS[kind], rows * max(columns, 1), start)
    return values.reshape(rows, columns) if columns else values


def layout(names: Sequence[str], frequency: str) -> bytes:
    """Return 8 bytes that tell inputs of these names, one step apart each `frequency`, from all others."""
    return xxh3_64_digest("\n".join([frequency, *names]).encode())
