"""The binary tensor data extension of the Open Inference Protocol: tensors as raw bytes behind the JSON header.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. Numbers are little-endian in
row-major order; an element of BYTES is a length of 4 bytes and that many bytes. All lengths are checked before memory is taken.
"""

from collections.abc import Sequence

import numpy as np

from handlers.arrays import Array
from handlers.errors import InvalidInput, MalformedJson

HEADER_LENGTH = "inference-header-content-length"
BYTES, BF16 = "BYTES", "BF16"
NUMBERS = {name: np.dtype(code) for name, code in {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4"}.items()}
DATATYPES = (*NUMBERS, BF16, BYTES)
PREFIX = 4  # bytes of an element's length


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON header and the tensors' bytes; without `header_length` all of the body is JSON. Raises MalformedJson."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 12):
        raise MalformedJson(f"Inference-Header-Content-Length: expected the bytes of the JSON header, got {header_length[:40]!r}")
    if (length := int(header_length)) > len(body):
        raise MalformedJson(f"Inference-Header-Content-Length: {length} bytes, but the body has {len(body)}")
    return body[:length], memoryview(body)[length:]


class Chunks:
    """The tensors' bytes, taken in the order of the inputs."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, size: int, where: str) -> memoryview:
        """The next `size` bytes. Raises InvalidInput when there are fewer."""
        if size > len(self._data):
            raise InvalidInput(f"{where}: binary_data_size is {size}, but {len(self._data)} bytes are left of the body")
        chunk, self._data = self._data[:size], self._data[size:]
        return chunk

    def check_empty(self) -> None:
        """Raises InvalidInput when bytes are left that belong to no input."""
        if self._data:
            raise InvalidInput(f"body: {len(self._data)} bytes behind the last input that has a binary_data_size")


def read(raw: memoryview, datatype: str, shape: Sequence[int], count: int, where: str) -> Array:
    """An array of that shape; BF16 becomes float32, BYTES an object array of bytes. `count` is the number of elements."""
    if datatype == BYTES:
        return _read_bytes(raw, count, where).reshape(shape)
    stored = np.dtype("<u2") if datatype == BF16 else NUMBERS[datatype]
    if len(raw) != count * stored.itemsize:
        expected = f"{count} elements of {datatype} are {count * stored.itemsize} bytes"
        raise InvalidInput(f"{where}: {expected}, but binary_data_size is {len(raw)}")
    array = np.frombuffer(raw, stored).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if datatype == BF16 else array


def write(array: Array, datatype: str) -> bytes:
    """The raw bytes of an array, whose elements are `bytes` where the datatype is BYTES."""
    if datatype == BYTES:
        return b"".join([len(item).to_bytes(PREFIX, "little") + item for item in array.ravel().tolist()])
    return np.ascontiguousarray(array, NUMBERS[datatype]).tobytes()


def _read_bytes(raw: memoryview, count: int, where: str) -> Array:
    if len(raw) < count * PREFIX:
        raise InvalidInput(f"{where}: {count} elements of BYTES are at least {count * PREFIX} bytes, but binary_data_size is {len(raw)}")
    data, size, at, items = bytes(raw), len(raw), 0, list[bytes]()
    for i in range(count):
        start = at + PREFIX
        end = start + int.from_bytes(data[at:start], "little")
        if end > size or start > size:
            raise InvalidInput(f"{where}: element {i} of BYTES ends at byte {end}, but binary_data_size is {size}")
        items.append(data[start:end])
        at = end
    if at != size:
        raise InvalidInput(f"{where}: {count} elements of BYTES end at byte {at}, but binary_data_size is {size}")
    array = np.empty(count, object)
    array[:] = items
    return array
