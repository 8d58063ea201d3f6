"""HTTP over a Unix socket, as an httpx client.

httpx can do so itself, but httpcore 1.0 leaves the socket of a failed connection open, and a server that starts is asked many times before
it listens.
"""

import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx


def client(path: Path, timeout: float) -> httpx.Client:
    """Return a client of the server that listens at `path`; the host of its URLs means nothing."""
    return httpx.Client(transport=_Transport(path), base_url="http://torchserve", timeout=timeout)


class _Connection(HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("torchserve", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)  # closed with the connection
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(httpx.BaseTransport):
    def __init__(self, path: Path) -> None:
        self._path = path

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        connection = _Connection(self._path, request.extensions["timeout"]["read"])
        try:
            connection.request(request.method, request.url.raw_path.decode("ascii"), request.read(), dict(request.headers))
            response = connection.getresponse()
            return httpx.Response(response.status, headers=response.getheaders(), content=response.read())
        except (OSError, HTTPException) as e:
            raise httpx.TransportError(f"{self._path}: {e or type(e).__name__}") from e
        finally:
            connection.close()
