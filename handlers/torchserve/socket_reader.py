"""Exactly n bytes from a socket, read in large pieces. Knows nothing of what the bytes mean."""

import sys
from typing import Any

PIECE = 65_536  # bytes of one read


class Buffer:
    """For one connection. The host's own reader takes every length, name and value by a `recv` of its own."""

    def __init__(self) -> None:
        self._data, self._at = b"", 0

    def read(self, connection: Any, length: int) -> bytes:
        """`length` bytes; ends the process when the other side has gone, as a worker does whose host ended."""
        while len(self._data) - self._at < length:
            piece = connection.recv(max(length - len(self._data) + self._at, PIECE))
            if not piece:
                sys.exit(0)
            self._data, self._at = self._data[self._at :] + piece, 0
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]
