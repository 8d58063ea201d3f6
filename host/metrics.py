"""The metrics port: TorchServe's metrics, for callers with a key.

TorchServe asks nobody for a key on its metrics address. So that address is a Unix socket in the server's private folder, and this server
passes on what is read there.
"""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

import httpx

from handlers.errors import AccessError, Forbidden
from handlers.keys import DEFAULT_TENANT, OPERATE, KeyRing
from host import unix_socket
from host.ports import HostError

TIMEOUT = 10.0  # seconds for a client to send its request, and for TorchServe to answer


class _Server(ThreadingHTTPServer):
    """An HTTP server that asks no name server for its own name, and writes nothing about clients that go away."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class MetricsServer:
    """Serves `/metrics` at an address until it is closed. Without `keys` everybody may read."""

    def __init__(self, address: tuple[str, int], unix_socket: Path, keys: KeyRing | None, more: Callable[[], str] = str) -> None:
        """Start to serve. `more` returns what is added to TorchServe's metrics. Raises HostError when the port cannot be listened on."""
        self._socket, self._keys, self._more, self._lock = unix_socket, keys, more, threading.Lock()
        try:
            self._server = _Server(address, self._handler())
        except OSError as e:
            raise HostError(f"metrics port {address[1]}: {e.strerror or e}") from e
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the response to GET `target`."""
        url = urlsplit(target)
        if url.path != "/metrics":
            return 404, {}, b"the metrics are at /metrics\n"
        try:
            self._authenticate(headers)
        except AccessError as e:
            return e.status, e.headers, f"{e.code}: {e.message}\n".encode()
        try:
            with unix_socket.client(self._socket, TIMEOUT) as client:
                response = client.get(f"/metrics?{url.query}")
        except httpx.HTTPError:
            return 503, {}, b"TorchServe does not answer\n"
        return (
            response.status_code,
            {"Content-Type": response.headers.get("content-type", "text/plain")},
            response.content + self._more().encode(),
        )

    def _authenticate(self, headers: dict[str, str]) -> None:
        """Raise AccessError for a request without a key of the default tenant that may operate."""
        if self._keys is not None:
            with self._lock:
                self._keys.refresh()
                caller = self._keys.authenticate(headers, OPERATE)
            if caller.tenant != DEFAULT_TENANT:
                raise Forbidden(f"the key {caller.name}: the metrics are those of all tenants, and for the tenant {DEFAULT_TENANT} alone")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version, default_request_version = "HTTP/1.1", "HTTP/1.0"
            timeout = TIMEOUT
            server_version, sys_version = "cellstate", ""

            def do_GET(self) -> None:
                status, headers, body = answer(self.path, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(status)
                for name, value in ({"Content-Type": "text/plain; charset=utf-8"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Write nothing: any client could fill the log."""

        return Handler
