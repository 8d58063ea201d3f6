"""A server that does nothing: it answers every request with the same bytes. `python -m loadtests.load.null_server BODY` prints its port."""

import asyncio
import sys

LENGTH = b"content-length:"


class NullServer(asyncio.Protocol):
    """One connection. A request is complete when its body has arrived; nothing of it is looked at but its length."""

    def __init__(self, response: bytes) -> None:
        self._response, self._received = response, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while (size := self._size()) is not None and len(self._received) >= size:
            del self._received[:size]
            self._transport.write(self._response)

    def _size(self) -> int | None:
        """Return the bytes of the first request, or None before its head is complete."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._received[:end]).lower()
        at = head.find(LENGTH)
        length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        return end + 4 + length


async def serve(body: bytes) -> None:
    """Serve on a free port until the process is ended."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    response = head.encode() + body
    server = await asyncio.get_running_loop().create_server(lambda: NullServer(response), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1].encode()))
