"""Rough clients on several workers and servers at once, whatever is killed: some order explains every answer, as the oracle finds it.

The chaos client runs as a user runs it, in a process of its own; this process kills, and notes in the history what it killed. When a kill
falls is left to chance and to the machine: nothing that is asserted depends on it.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from handlers.keys import Caller, dump, generate, parse
from host.ports import HostError, Ports
from host.torchserve.launcher import TorchServe, serving
from loadtests import history
from loadtests.history import History, Recorder
from loadtests.oracle.judge import judge
from loadtests.oracle.report import Report, printed
from tests.support import valkey_server as valkeys
from tests.support.http_client import until

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
KEEP = 6
SECONDS, SESSIONS, REQUESTS = 14.0, 30, 40
KEPT = {"CELLSTATE_KEEP_VERSIONS": str(KEEP)}
Kill = tuple[str, Callable[[], None]]


@contextmanager
def chaos(path: Path, servers: Sequence[TorchServe], seed: int, key: Path | None = None, *more: str) -> Iterator[Recorder]:
    """The chaos client over all servers while the block runs, and a hand on its history; at the end it has settled what was open."""
    urls = [word for s in servers for word in ("--url", s.url, "--token", f"@{key or s.first_key}")]
    size = ["--sessions", SESSIONS, "--requests", REQUESTS, "--seconds", SECONDS, "--seed", seed]
    options = [*urls, *more, "--store", servers[0].store, "--model", "two", "--record", path, *size]
    client = subprocess.Popen([sys.executable, "-m", "loadtests.chaos", *map(str, options)], cwd=ROOT)
    try:
        until(lambda: path.exists() and path.stat().st_size > 10_000, "the first operations")
        with Recorder(path) as recorder:
            yield recorder
        assert client.wait(120) == 0
    finally:
        client.kill()
        client.wait(30)


def lasting() -> Ports:
    """Below those of outgoing connections: none of them must take the port of a server that is down for a moment."""
    found: set[int] = set()
    while len(found) < 4:
        found.add(valkeys.free_port())
    inference, metrics, *grpc = found
    return Ports(inference, metrics, (grpc[0], grpc[1]))


def strike(recorder: Recorder, kills: Sequence[Kill], draw: random.Random) -> None:
    """One after the other, a moment apart; each is noted."""
    for what, kill in kills:
        time.sleep(draw.uniform(0.2, 0.8))  # no readiness to wait for: the moment is meant to be any
        kill()
        recorder.note(f"killed {what}")


def a_worker(server: TorchServe, draw: random.Random) -> Callable[[], None]:
    """SIGKILL to one of the server's workers, of its own group."""

    def kill() -> None:
        def struck() -> bool:
            with suppress(HostError, ProcessLookupError, KeyError, ValueError):
                pid = draw.choice(server.worker_pids("two"))
                if server.process is not None and pid > 0 and os.getpgid(pid) == server.process.pid:
                    os.kill(pid, signal.SIGKILL)
                    return True
            return False

        until(struck, "a worker to kill")

    return kill


def a_server(server: TorchServe) -> Callable[[], None]:
    """SIGKILL to the host and its workers, and a start on the same folder and ports."""

    def kill() -> None:
        server.kill()
        server.start()

    return kill


def judged(path: Path, store: Path) -> tuple[History, Report]:
    """The history and what the oracle finds in it: no violation, and nothing left open."""
    report = judge(path, store, keep=KEEP)
    print(printed(report))
    assert report.code == 0, printed(report)
    return history.read(path), report


def proves_something(recorded: History, report: Report, kills: Sequence[Kill]) -> None:
    """A history without what the promise is about would pass, too."""
    assert [note.removeprefix("killed ") for note in recorded.notes] == [what for what, _ in kills]
    assert report.unknown > 0
    assert min(report.answers[said] for said in ("replayed", "step_conflict", "session_closed")) > 0, report.answers
    assert min(report.kinds[kind] for kind in ("fork", "rewind", "import", "what-if", "step without number", "close")) > 0, report.kinds
    applied = [o.invocation.action for o in recorded.operations if o.answer.status == 200 and not o.answer.replayed]
    assert min(applied.count(action) for action in ("fork", "rewind", "import", "close")) > 0
    assert {o.invocation.server for o in recorded.operations if o.answer.status == 200} == set(range(len(recorded.head["urls"])))


def test_two_workers_on_one_embedded_store_killed_again_and_again(pair_store: Path, tmp_path: Path) -> None:
    path, draw = tmp_path / "history.jsonl", random.Random(101)
    with serving(tmp_path / "server", pair_store, environment=KEPT, ports=lasting()) as server:
        worker = "a worker", a_worker(server, draw)
        kills = [worker, worker, worker, ("the server", a_server(server)), worker]
        with chaos(path, [server], seed=101) as recorder:
            strike(recorder, kills, draw)
    proves_something(*judged(path, pair_store), kills)


def test_two_servers_over_one_valkey_and_all_of_them_killed(pair_store: Path, tmp_path: Path) -> None:
    path, draw = tmp_path / "history.jsonl", random.Random(102)
    (tmp_path / "valkey").mkdir()
    with valkeys.serving(tmp_path / "valkey", **valkeys.ALWAYS) as store:
        environment = KEPT | {"CELLSTATE_STORE": f"{store.url}/0"}

        def lose_the_store() -> None:
            store.kill()
            time.sleep(0.3)  # long enough to be missed
            store.start()

        with (
            serving(tmp_path / "one", pair_store, environment=environment, ports=lasting()) as one,
            serving(tmp_path / "other", pair_store, environment=environment, ports=lasting()) as other,
        ):
            kills = [("a worker", a_worker(one, draw)), ("the store", lose_the_store), ("a worker", a_worker(other, draw))]
            kills += [("a server", a_server(other)), ("the store", lose_the_store)]
            with chaos(path, [one, other], seed=102) as recorder:
                strike(recorder, kills, draw)
    proves_something(*judged(path, pair_store), kills)


def test_tenants_whose_sessions_have_the_same_ids_do_not_meet(pair_store: Path, tmp_path: Path) -> None:
    """Three clients send the same moves under the same ids at once; to each, the server is its own."""
    tenants = ("default", "acme", "rival")
    with serving(tmp_path / "server", pair_store, environment=KEPT, ports=lasting()) as server, ExitStack() as clients:
        for tenant in tenants:
            text, key = generate(Caller(f"chaos-{tenant}", tenant), time.time())
            (tmp_path / f"{tenant}.key").write_text(text)
            server.key_file.write_bytes(dump([*parse(server.key_file.read_bytes()), key]))
            path = tmp_path / f"{tenant}.jsonl"
            clients.enter_context(chaos(path, [server], 103, tmp_path / f"{tenant}.key", "--names", "same"))
    for tenant in tenants:
        recorded, report = judged(tmp_path / f"{tenant}.jsonl", pair_store)
        assert all(o.invocation.session.startswith("same-") for o in recorded.operations)
        assert report.answers["session_closed"] > 0, report.answers
