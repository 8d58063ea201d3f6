"""What the ASGI applications of the benchmarks share."""

from typing import Any


async def read_body(receive: Any) -> bytes:
    """Receive the whole body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body
