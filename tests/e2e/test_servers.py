"""Servers keep to themselves: side by side, at the end, and when they refuse to begin."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from host.folder import processes, stop
from host.ports import HostError
from host.torchserve.launcher import TorchServe, serving
from tests.support.http_client import Connect, until
from tests.support.served_models import Model, assert_close

pytestmark = pytest.mark.e2e


def group(number: int) -> Iterator[psutil.Process]:
    """The processes of a process group that still run."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue  # it ended while we looked


def test_two_servers_on_one_machine_do_not_meet_and_one_that_stops_leaves_nothing(
    served: TorchServe, lone_store: Path, zoo: dict[str, Model], connect: Connect, session: str, tmp_path: Path
) -> None:
    model, here = zoo["one"], connect(served, "one")
    inputs, others = model.inputs(5, seed=1), model.inputs(9, seed=2)
    here.ask(inputs=inputs[:3], session={"id": session, "step": 0})
    with serving(tmp_path, lone_store) as neighbour:
        there = connect(neighbour, "one")
        assert neighbour.process is not None
        number = neighbour.process.pid
        assert any(process.name() == "java" for process in group(number))
        there.refusal(404, "session_not_found", session={"id": session, "action": "describe"})
        there.ask(inputs=others, session={"id": session, "step": 0})
        assert (here.position(session), there.position(session)) == (3, 9)
        assert neighbour.headers() != served.headers()
        assert not set(neighbour.worker_pids("one")) & set(served.worker_pids("one"))
    until(lambda: not list(group(number)), "every process of the stopped server to be gone", deadline=10)
    assert not (tmp_path / "tmp").exists()
    assert (tmp_path / "sessions").is_dir()
    answer = here.ask(inputs=inputs[3:], session={"id": session, "step": 3})
    assert_close(answer["prediction"], model.whole(inputs), "the server that stayed")


def test_a_folder_that_is_being_served_is_not_served_a_second_time(
    lone_store: Path, zoo: dict[str, Model], connect: Connect, session: str, tmp_path: Path
) -> None:
    """A second server there would take the first one's keys, its gate and its sockets."""
    inputs = zoo["one"].inputs(4, seed=3)
    with serving(tmp_path, lone_store) as first:
        client, second = connect(first, "one"), TorchServe(tmp_path, lone_store)
        client.ask(inputs=inputs[:2], session={"id": session, "step": 0})
        try:
            with pytest.raises(HostError, match=re.escape(str(tmp_path))):
                second.start()
        finally:
            second.stop()
        answer = client.ask(inputs=inputs[2:], session={"id": session, "step": 2})
        assert_close(answer["prediction"], zoo["one"].whole(inputs), "the server that was there first")
        assert first.stop(), "the server that was there first did not drain"


def test_a_launch_that_fails_half_way_leaves_no_process(lone_store: Path, tmp_path: Path) -> None:
    (tmp_path / "server.json").mkdir()
    server = TorchServe(tmp_path, lone_store)
    with pytest.raises(OSError, match=r"server\.json"):
        server.launch()
    assert server.process is None
    assert processes(tmp_path) == []


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [("CELLSTATE_NOPE", "1", "CELLSTATE_NOPE"), ("CELLSTATE_SESSION_TTL", "-1", "session_ttl")],
)
def test_a_setting_that_is_unknown_or_out_of_range_refuses_to_start_and_is_named(
    lone_store: Path, tmp_path: Path, variable: str, value: str, named: str
) -> None:
    server, began = TorchServe(tmp_path, lone_store, environment={variable: value}), time.monotonic()
    with pytest.raises(HostError, match=named):
        server.start()
    assert time.monotonic() - began < 40, "it took as long as a start that fails"
    assert server.process is None
    assert not (tmp_path / "tmp").exists()


def test_a_server_whose_command_was_killed_keeps_its_folder_until_it_is_stopped(lone_store: Path, tmp_path: Path) -> None:
    """The test is the command here: nothing but the folder tells another one of the server."""
    orphaned = TorchServe(tmp_path, lone_store).start()
    assert orphaned.process is not None
    number = orphaned.process.pid
    try:
        (tmp_path / "server.json").unlink()
        with pytest.raises(HostError, match=r"is being served already; stop that server \(python -m host stop"):
            TorchServe(tmp_path, lone_store).launch()
        assert stop(tmp_path)
        assert not list(group(number))
        assert not stop(tmp_path)
    finally:
        orphaned.kill()
    with serving(tmp_path, lone_store):
        assert (tmp_path / "server.log.1").is_file()
