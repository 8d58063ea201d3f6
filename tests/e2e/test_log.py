"""The log stays small: clients without a key cannot write into it, and it is rotated."""

import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.torchserve.launcher import TorchServe, serving
from tests.support.http_client import until

pytestmark = pytest.mark.e2e
MEGABYTE = 1_000_000
LIMIT = 6 * 10 * 1024 * 1024 + MEGABYTE  # six files of 10 MB, and the line that is being written
FLOOD = {
    "a broken escape": b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an asterisk": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a form with a broken escape": b"POST /predictions/one HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 3\r\n\r\n%zz",
    "no HTTP": b"nothing like HTTP\r\n\r\n",
    "a wrong key": b"POST /predictions/one HTTP/1.1\r\nHost: x\r\nX-API-Key: wrong\r\nContent-Length: 2\r\n\r\n{}",
    "a long line": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


def log_bytes(server: TorchServe) -> int:
    return sum(path.stat().st_size for path in server.folder.glob("*.log*"))


def send(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        return connection.recv(100)


@pytest.mark.parametrize("request_bytes", FLOOD.values(), ids=FLOOD.keys())
def test_a_flood_without_a_key_writes_nothing_into_the_log(served: TorchServe, request_bytes: bytes) -> None:
    for port in (served.ports.inference, served.ports.metrics):
        before = log_bytes(served)
        for _ in range(200):
            assert send(port, request_bytes).startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
        assert log_bytes(served) - before < 2_000


@pytest.fixture
def talkative(lone_store: Path, tmp_path: Path) -> Iterator[TorchServe]:
    """A server whose worker prints 12 MB when it starts."""
    (tmp_path / "store").mkdir()
    with zipfile.ZipFile(lone_store / "one-1.0.mar") as source, zipfile.ZipFile(tmp_path / "store" / "one-1.0.mar", "w") as target:
        for entry in source.infolist():
            more = b"\nprint(('x' * 499 + '\\n') * 24_000)\n" if entry.filename == "handlers/lstm_handler.py" else b""
            target.writestr(entry, source.read(entry) + more)
    with serving(tmp_path / "run", tmp_path / "store", logs=tmp_path / "logs") as server:
        yield server


def test_the_log_is_rotated_in_a_folder_of_its_own_and_never_larger_than_its_limit(talkative: TorchServe) -> None:
    folder = talkative.log.parent
    assert talkative.log.is_file()
    assert folder != talkative.folder
    until((folder / "server.log.1").exists, "a rotated file")
    assert sum(path.stat().st_size for path in folder.iterdir()) < LIMIT
    assert (folder / "server.log.1").stat().st_size > 9 * MEGABYTE
