"""What the proxy that is shipped passes on: whole requests, of bounded size, and nothing of those that are half sent."""

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.envoy import proxying
from tests.support.http_client import until
from tests.support.valkey_server import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")]
HALF_SENT = 100


@dataclass
class Recorder:
    """Answers each request with 204 once its head has come, and keeps all that arrives."""

    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    received: list[bytes] = field(default_factory=list)

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._record, args=(connection,), daemon=True).start()

    def _record(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(1 << 20):
                self.received.append(data)
                if b" HTTP/1.1\r\n" in data:
                    connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


@dataclass(frozen=True)
class Proxy:
    port: int
    certificate: Path
    recorder: Recorder

    def connect(self) -> socket.socket:
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout=60), server_hostname="127.0.0.1")

    def status(self, request: bytes) -> int:
        with closing(self.connect()) as connection:
            with suppress(ConnectionError, ssl.SSLError):  # it may answer before it has read all
                connection.sendall(request)
            return int(connection.recv(100).split()[1])


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    recorder, port = Recorder(), free_port()
    thread = threading.Thread(target=recorder.run)
    thread.start()
    try:
        with proxying(tmp_path_factory.mktemp("proxy"), port, [recorder.listener.getsockname()[1]] * 3) as certificate:
            made = Proxy(port, certificate, recorder)
            until(lambda: made.status(request("begin", b"")) == 204, "the proxy knows that its servers are up")
            yield made
    finally:
        recorder.listener.shutdown(socket.SHUT_RDWR)
        recorder.listener.close()
        thread.join()


def request(name: str, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST /predictions/{name} HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n".encode() + body


def test_nothing_of_half_sent_bodies_reaches_a_server(proxy: Proxy) -> None:
    with ExitStack() as stack:
        for _ in range(HALF_SENT):
            stack.enter_context(closing(proxy.connect())).sendall(request("half", b"{" * 20_000, 40_000))
        assert proxy.status(request("whole", b"{}")) == 204
        rest = stack.enter_context(closing(proxy.connect()))
        rest.sendall(request("later", b"1" * 10, 20))
        assert not any(b"/predictions/half" in data or b"/predictions/later" in data for data in proxy.recorder.received)
        rest.sendall(b"2" * 10)
        assert rest.recv(100).split()[1] == b"204"
    assert any(b"1111111111" + b"2222222222" in data for data in proxy.recorder.received), "both halves came together"
    assert not any(b"/predictions/half" in data for data in proxy.recorder.received)


def test_a_body_beyond_the_limit_of_torchserve_is_refused_by_the_proxy(proxy: Proxy) -> None:
    assert proxy.status(request("large", b"1" * 4_194_304)) == 204
    assert proxy.status(request("larger", b"1" * 4_194_305)) == 413
    assert not any(b"/predictions/larger" in data for data in proxy.recorder.received)


@pytest.mark.parametrize("headers", [b"X-Long: " + b"a" * 20_000 + b"\r\n", b"".join(b"X-%d: 1\r\n" % i for i in range(100))])
def test_long_heads_are_refused_by_the_proxy(proxy: Proxy, headers: bytes) -> None:
    assert proxy.status(b"POST /predictions/head HTTP/1.1\r\nHost: here\r\n" + headers + b"Content-Length: 0\r\n\r\n") == 431
    assert not any(b"/predictions/head" in data for data in proxy.recorder.received)
