"""What strangers' connections cost: TorchServe has no limits for them, and the proxy that is shipped has."""

import json
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pytest

from host.torchserve.launcher import TorchServe, serving
from tests.support.envoy import proxying
from tests.support.http_client import until
from tests.support.valkey_server import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")]
ROW = [[50.0, 0.0, 1.0]]
HALF_OPEN = 500


@dataclass(frozen=True)
class Place:
    """An address that leads to the server: its own, or the proxy's, whose certificate is then known."""

    port: int
    key: str
    certificate: Path | None = None

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        if self.certificate is None:
            return plain
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.set_alpn_protocols(["http/1.1"])
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def request(self, model: str, **fields: object) -> bytes:
        body = json.dumps(fields).encode()
        head = (
            f"POST /predictions/{model} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {self.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    archives = tmp_path_factory.mktemp("archives")
    for name in ("one", "two"):
        shutil.copy(store / f"{name}-1.0.mar", archives)
    with serving(tmp_path_factory.mktemp("limits"), archives) as started:
        yield started


@pytest.fixture(scope="module")
def direct(server: TorchServe) -> Place:
    return Place(server.ports.inference, server.first_key.read_text().strip())


@pytest.fixture(scope="module")
def proxied(server: TorchServe, direct: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    port = free_port()
    with proxying(tmp_path_factory.mktemp("proxy"), port, [server.ports.inference] * 3) as certificate:
        yield Place(port, direct.key, certificate)


def answers(connection: socket.socket, count: int) -> list[dict[str, object]]:
    """Read `count` responses of one connection, in the order in which they come."""
    found: list[dict[str, object]] = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            assert stream.readline().split()[1] == b"200"
            headers = dict(line.lower().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
            found.append(json.loads(stream.read(int(headers[b"content-length"]))))
    return found


def pipelined(place: Place) -> list[str]:
    """Send a long request to the model `two`, and a short one to `one`, on one connection; return the models that answered, in order."""
    with closing(place.connect()) as connection:
        connection.sendall(place.request("two", inputs=ROW, horizon=1000, future=[[0.0, 1.0]] * 1000) + place.request("one", inputs=ROW))
        return [str(answer["model"]["name"]) for answer in answers(connection, 2)]  # type: ignore[index]


def latency(place: Place) -> float:
    """Return the median of 50 requests on one connection, in milliseconds."""
    taken, request = [], place.request("one", inputs=ROW)
    with closing(place.connect()) as connection:
        for _ in range(50):
            began = time.perf_counter()
            connection.sendall(request)
            answers(connection, 1)
            taken.append(time.perf_counter() - began)
    return 1e3 * median(taken)


def memory(server: TorchServe) -> int:
    """Return the resident memory of TorchServe's Java process, in MiB."""
    [java] = [p for p in psutil.Process().children(recursive=True) if "java" in p.name() and str(server.folder) in " ".join(p.cmdline())]
    return int(java.memory_info().rss) >> 20


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection; what it says before that is read."""
    connection.settimeout(0.01)
    with suppress(TimeoutError, ssl.SSLWantReadError):
        try:
            while connection.recv(4096):
                pass
        except (ConnectionError, ssl.SSLError):
            pass
        return True
    return False


def test_answers_of_pipelined_requests_come_in_the_order_of_the_requests_behind_the_proxy(proxied: Place) -> None:
    for _ in range(5):
        assert pipelined(proxied) == ["two", "one"]


def test_torchserve_itself_answers_pipelined_requests_in_the_order_in_which_they_are_done(direct: Place) -> None:
    """If this fails, TorchServe was cured, and the pages that warn of it are to be changed."""
    assert until(lambda: pipelined(direct) == ["one", "two"], "an answer out of order", 30)


@pytest.mark.parametrize("half", ["header", "body"])
def test_half_sent_requests_are_ended_by_the_proxy_and_cost_others_little(
    server: TorchServe, direct: Place, proxied: Place, half: str
) -> None:
    sent = b"POST /predictions/one HTTP/1.1\r\nHost: here\r\n" + (b"Content-Length: 1000\r\n\r\n{" if half == "body" else b"X-Half: ")
    figures = []
    for place in (direct, proxied):
        before, quiet = memory(server), latency(place)
        with ExitStack() as stack:
            held = [stack.enter_context(closing(place.connect())) for _ in range(HALF_OPEN)]
            for connection in held:
                connection.sendall(sent)
            figures.append((quiet, latency(place), before, memory(server)))
            if place is proxied:
                until(lambda held=held: all(map(is_closed, held)), "the proxy ends half-sent requests", 60)
                figures.append((latency(place), latency(place), before, memory(server)))
    for name, (quiet, busy, before, after) in zip(("direct", "proxied", "ended"), figures, strict=True):
        print(f"{half} {name}: {quiet:.1f} ms, {busy:.1f} ms with {HALF_OPEN} held; Java {before} -> {after} MiB")
        assert busy < 10 * quiet + 50
