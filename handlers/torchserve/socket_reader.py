"""Read TorchServe's messages to a worker through a buffer.

TorchServe's own reader takes every length, name and value of a message by a `recv` of its own: about a dozen system calls a request.
"""

import sys
from typing import Any, BinaryIO

BUFFER_BYTES = 65_536
KNOWN_RELEASE = "0.12.0"  # the release whose internals are known here


class SocketReader:
    """Read exactly as many bytes as asked for from one connection: what `ts.protocol.otf_message_handler` calls `_retrieve_buffer`."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    def read(self, connection: Any, length: int) -> bytes:
        """Return `length` bytes. Ends the process when the connection is closed, as TorchServe's own reader does."""
        if self._file is None:
            self._file = connection.makefile("rb", buffering=BUFFER_BYTES)
        data = self._file.read(length)
        if len(data) < length:
            sys.exit(0)
        return data


def install() -> None:
    """Replace TorchServe's reader in this worker, unless it is of another release.

    To be called while a model loads: TorchServe has read that message to its last byte, so none is lost between the two readers.
    """
    protocol = sys.modules.get("ts.protocol.otf_message_handler")
    if protocol is not None and getattr(sys.modules.get("ts"), "__version__", "") == KNOWN_RELEASE:
        protocol._retrieve_buffer = SocketReader().read  # type: ignore[attr-defined]
