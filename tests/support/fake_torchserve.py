"""A TorchServe in memory, as far as deploying needs it: its management API at a Unix socket, its inference API at a port.

It loads what it is told to register from the folder of its archives, and answers each model with the answer that its signature records.
`fails` are the versions whose workers do not start, `wrong` those that answer something else,
`refuses` those that are not made the default.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from host.archives import read
from host.description import Description


class FakeTorchServe:
    """`versions` are what is registered: the signature of each `name/version`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.versions: dict[str, dict[str, Any]] = {}
        self.defaults: dict[str, str] = {}
        self.fails: set[str] = set()
        self.wrong: set[str] = set()
        self.refuses: set[str] = set()
        self.asked: list[str] = []

    def load(self, file: str) -> str:
        archive = read(self.folder / "models" / file)
        self.versions[archive.address] = archive.signature
        self.defaults.setdefault(archive.name, archive.version)
        return archive.address

    def answer(self, method: str, target: str) -> tuple[int, Any]:
        """Return status and document of the response to a request."""
        url = urlsplit(target)
        path = url.path.removeprefix("/models").removeprefix("/predictions").strip("/")
        if not url.path.startswith("/predictions"):
            self.asked.append(f"{method} {url.path}")
        if method == "POST" and url.path == "/models":
            return self._register(parse_qs(url.query)["url"][0])
        if method == "GET" and not path:
            return 200, {"models": [{"modelName": name} for name in self.defaults]}
        if path.endswith("/all"):
            return 200, [self._describe(address) for address in self.versions if address.startswith(path.removesuffix("all"))]
        address = path.removesuffix("/set-default")
        address = address if "/" in address else f"{address}/{self.defaults.get(address)}"
        if address not in self.versions:
            return 404, {"code": 404, "message": "not found"}
        return self._on_version(method, url.path, address)

    def _on_version(self, method: str, path: str, address: str) -> tuple[int, Any]:
        name, _, version = address.partition("/")
        if path.endswith("/set-default") and address in self.refuses:
            return 500, {"code": 500, "message": "no"}
        if path.endswith("/set-default"):
            self.defaults[name] = version
        elif method == "DELETE":
            del self.versions[address]
        elif path.startswith("/predictions"):
            expected = self.versions[address]["outputs"]["example"]
            return 200, {"prediction": [value + 1 for value in expected] if address in self.wrong else expected}
        return 200, [self._describe(address)]

    def _register(self, file: str) -> tuple[int, Any]:
        address = self.load(file)
        if address in self.fails:
            del self.versions[address]
            (self.folder / "server.log").write_text("… refused_to_start backend: model.onnx is missing from the archive\n")
            return 500, {"code": 500, "message": "Failed to start workers\nfor model"}
        return 200, {"status": "registered"}

    def _describe(self, address: str) -> dict[str, Any]:
        name, _, version = address.partition("/")
        queue = {"pendingRequests": 0, "remainingCapacity": 1_000}
        workers = [{"status": "READY", "pid": 1}]
        return {"modelName": name, "modelVersion": version, "workers": workers, "jobQueueStatus": queue, "batchSize": 64, "minWorkers": 1}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Any, torchserve: FakeTorchServe) -> None:
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.torchserve = torchserve
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    def _respond(self) -> None:
        assert isinstance(self.server, _Server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, document = self.server.torchserve.answer(self.command, self.path)
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing."""


@contextmanager
def running(
    folder: Path, store: Path, sessions: str, ready: bool = True, pid: int = 1, workers: int | None = None
) -> Iterator[FakeTorchServe]:
    """A server in `folder`, described as `python -m host serve` would, over the archives that are in its folder `models`."""
    torchserve = FakeTorchServe(folder)
    for archive in sorted((folder / "models").glob("*.mar")):
        torchserve.load(archive.name)
    management = str(folder / "management.sock")
    servers = [_Server(management, torchserve), _Server(("127.0.0.1", 0), torchserve)]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in servers]
    url = f"http://127.0.0.1:{servers[1].server_address[1]}"
    options = {} if workers is None else {"minWorkers": workers}
    Description(url, management, "", {}, sessions, str(store), options, str(folder / "server.log"), pid, ready).write(folder)
    for thread in threads:
        thread.start()
    try:
        yield torchserve
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
