"""A server whose open files are used up by idle connections answers again once they are gone, and its sessions are as they were."""

import socket
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psutil
import pytest

from host.ports import HostError
from host.torchserve.launcher import TorchServe, serving
from host.watch import Watch
from tests.support.http_client import Connect, until

pytestmark = pytest.mark.e2e
ROW = [[50.0, 0.0, 1.0]]
SPARE = 60  # open files beyond those of a server at rest
IDLE = 300  # connections


def unanswered(server: TorchServe) -> bool:
    try:
        return server.failure(server.archives[0]) is not None
    except HostError:
        return True


def test_a_server_without_open_files_recovers_once_idle_connections_are_gone(lone_store: Path, connect: Connect, tmp_path: Path) -> None:
    lines: list[str] = []
    with serving(tmp_path / "run", lone_store) as server:
        assert server.process is not None
        connect(server, "one").ask(inputs=ROW, session={"id": "a", "step": 0})
        files, watch = server.open_files(), Watch(server, lines.append)
        assert files is not None
        psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE, (files.used + SPARE, files.used + SPARE))
        with ExitStack() as stack:
            for _ in range(IDLE):
                stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.ports.inference), timeout=10)))
            until(lambda: (found := server.open_files()) is not None and found.exhausted, "no open files are left")
            assert unanswered(server)
            [worker] = psutil.Process(server.process.pid).children()
            worker.kill()
            watch.look()
        assert any("open files in use: raise the limit" in line for line in lines), lines

        def answers() -> bool:
            watch.look()
            return not unanswered(server)

        until(answers, "the server answers", 120)
        metrics = httpx.get(server.metrics_url, headers=server.headers(), timeout=30).text
        assert f"cellstate_open_files_limit {files.used + SPARE}" in metrics
        client = connect(server, "one")
        assert client.position("a") == 1
        assert client.ask(inputs=ROW, session={"id": "a", "step": 1})["session"]["step"] == 2
