"""Reads and writes the messages between TorchServe and its worker, in fewer steps than TorchServe's own worker does.

That one takes every length, name and value of a request by a `recv` of its own, and puts a response together from a dozen pieces a row.
Format: `ts/protocol/otf_message_handler.py` of TorchServe 0.12.0. Lengths are 4 bytes, big-endian; a length of -1 ends a list.
"""

import os
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, BinaryIO

BUFFER_BYTES = 65_536
KNOWN_RELEASE = "0.12.0"  # the release whose internals are known here
INT = struct.Struct("!i")
UNPACK_INT = INT.unpack
STATUS = struct.Struct("!ii")  # status, and the length of its phrase
END = INT.pack(-1)


class MessageReader:
    """Reads from one connection through a buffer. Ends the process when the connection is closed, as TorchServe's own reader does."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    def read(self, connection: Any, length: int) -> bytes:
        """Return `length` bytes: what `_retrieve_buffer` returns."""
        data = self._buffered(connection).read(length)
        if len(data) < length:
            sys.exit(0)
        return data

    def read_batch(self, connection: Any) -> list[dict[str, Any]]:
        """Return the requests of one batch: what `_retrieve_inference_msg` returns. Bodies stay bytes."""
        read, requests = self._buffered(connection).read, []
        try:
            while (request_id := _field(read)) is not None:
                headers = []
                while (name := _field(read)) is not None:
                    headers.append({"name": name, "value": _field(read)})
                parameters = []
                while (name := _field(read)) is not None:
                    content_type, value = _field(read) or b"", _field(read)
                    parameters.append({"name": name.decode(), "contentType": content_type.decode(), "value": value})
                requests.append({"requestId": request_id, "headers": headers, "parameters": parameters})
        except struct.error:  # a length is missing: the connection was closed, and the value before may be cut short
            sys.exit(0)
        return requests

    def _buffered(self, connection: Any) -> BinaryIO:
        if self._file is None:
            self._file = connection.makefile("rb", buffering=BUFFER_BYTES)
        return self._file


def _field(read: Callable[[int], bytes]) -> bytes | None:
    """Return the next value, or None at the end of a list. Raises struct.error where the connection ends."""
    (length,) = UNPACK_INT(read(4))
    return None if length == -1 else read(length)


def encode_responses(bodies: Sequence[bytes], request_ids: Mapping[int, str], message: str, context: Any) -> bytes:
    """Encode the responses of a batch that was served: what `create_predict_response` returns for them."""
    parts = [INT.pack(200), _text(message)]
    for i, request_id in request_ids.items():
        headers = context.get_response_headers(i)
        status, phrase = context.get_response_status(i)
        encoded_phrase = (phrase or "").encode()
        parts += (
            _encoded(request_id),
            _text(headers.get("content-type", "")),
            STATUS.pack(status, len(encoded_phrase)),
            encoded_phrase,
            INT.pack(len(headers)),
            *[_text(text) for item in headers.items() for text in item],
            INT.pack(len(bodies[i])),
            bodies[i],
        )
    parts.append(END)
    return b"".join(parts)


def _encoded(text: str) -> bytes:
    encoded = text.encode()
    return INT.pack(len(encoded)) + encoded


_text = lru_cache(maxsize=256)(_encoded)  # of what is often the same


def install() -> None:
    """Replace TorchServe's reader and writer in this worker, unless it is of another release or one of several ranks.

    To be called while a model loads: TorchServe has read that message to its last byte, so none is lost between the two readers.
    """
    protocol, service = sys.modules.get("ts.protocol.otf_message_handler"), sys.modules.get("ts.service")
    known = getattr(sys.modules.get("ts"), "__version__", "") == KNOWN_RELEASE and os.environ.get("LOCAL_RANK", "0") == "0"
    if protocol is None or service is None or not known:
        return
    reader = MessageReader()
    protocol._retrieve_buffer = reader.read  # type: ignore[attr-defined]
    protocol._retrieve_inference_msg = reader.read_batch  # type: ignore[attr-defined]
    service.create_predict_response = _writer(protocol.create_predict_response)  # type: ignore[attr-defined]


def _writer(theirs: Any) -> Any:
    """Return a `create_predict_response` that leaves to `theirs` what is no batch of answers: failures of the worker."""

    def create_predict_response(bodies: Any, request_ids: Any, message: str, code: int, context: Any = None) -> Any:
        if bodies is None or context is None or code != 200:
            return theirs(bodies, request_ids, message, code, context=context)
        return encode_responses(bodies, request_ids, message, context)

    return create_predict_response
