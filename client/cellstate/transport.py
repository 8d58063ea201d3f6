"""httpx on one side, the exchanges' own words on the other: the only module that knows httpx's errors."""

import ssl
import time

import httpx

from cellstate.errors import ConnectionFailed
from cellstate.wire import Response

FAILURES = (httpx.RequestError, httpx.InvalidURL)  # no answer came back
CALLERS_FAULT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)  # another attempt would fail alike


class Body:
    """The body of an answer, as it arrives. httpx bounds the wait for each part, so that a server which trickles would never time out."""

    def __init__(self, answer: httpx.Response, timeout: float) -> None:
        self._answer, self._timeout, self._end = answer, timeout, time.monotonic() + timeout
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Take the next part. Raises httpx.ReadTimeout when they have been arriving for more than `timeout` seconds."""
        self._parts.append(part)
        if time.monotonic() > self._end:
            raise httpx.ReadTimeout(f"the answer is not complete after {self._timeout:g} s")

    def response(self) -> Response:
        """The answer, which has been read to its end."""
        headers = {name.lower(): value for name, value in self._answer.headers.items()}
        return Response(self._answer.status_code, headers, b"".join(self._parts))


def connection_failed(error: httpx.RequestError | httpx.InvalidURL) -> ConnectionFailed:
    """The attempt's outcome when no answer came back."""
    retryable = isinstance(error, httpx.TransportError) and not isinstance(error, CALLERS_FAULT) and not _is_untrusted(error)
    failure = ConnectionFailed(f"{type(error).__name__} {error}".strip(), retryable=retryable)
    failure.__cause__ = error
    return failure


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate is not one that the caller trusts, which no other attempt changes."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None
