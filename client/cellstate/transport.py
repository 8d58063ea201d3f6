"""httpx on one side, the exchanges' own words on the other: the only module that knows httpx's errors."""

import httpx

from cellstate.errors import ConnectionFailed
from cellstate.wire import Response

FAILURES = (httpx.RequestError, httpx.InvalidURL)  # no answer came back
CALLERS_FAULT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)  # another attempt would fail alike


def response(answer: httpx.Response) -> Response:
    """An answer that has been read to its end."""
    return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)


def connection_failed(error: httpx.RequestError | httpx.InvalidURL) -> ConnectionFailed:
    """The attempt's outcome when no answer came back."""
    retryable = isinstance(error, httpx.TransportError) and not isinstance(error, CALLERS_FAULT)
    failure = ConnectionFailed(f"{type(error).__name__} {error}".strip(), retryable=retryable)
    failure.__cause__ = error
    return failure
