"""The gate, between real processes: inside is waited for, outside is turned away, the dead hold nothing up."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.engine.drain import Gate

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from handlers.engine.drain import Gate
gate = Gate(sys.argv[1])
for _ in sys.stdin:  # a line: try to pass; the next line: leave
    with gate.passing() as is_open:
        print(is_open, flush=True)
        sys.stdin.readline()
    print("out", flush=True)
"""


@contextmanager
def worker(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that passes the gate when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str]) -> str:
    """Let the worker go on, and hear what it says."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def soon() -> float:
    return time.monotonic() + 10


def at_once() -> float:
    return time.monotonic() + 0.02


def test_a_batch_inside_is_waited_for_and_the_next_is_turned_away(tmp_path):
    gate = Gate(str(tmp_path / "gate"))
    with worker(tmp_path / "gate") as process:
        assert tell(process) == "True"
        assert not gate.shut(at_once()), "somebody is inside"
        assert tell(process) == "out"
        assert gate.shut(soon())
        assert tell(process) == "False"


def test_a_killed_worker_lets_go_of_the_gate(tmp_path):
    gate = Gate(str(tmp_path / "gate"))
    with worker(tmp_path / "gate") as process:
        assert tell(process) == "True"
        process.kill()
        process.wait()
        assert gate.shut(soon())


def test_two_workers_are_inside_together(tmp_path):
    with worker(tmp_path / "gate") as one, worker(tmp_path / "gate") as other:
        assert (tell(one), tell(other)) == ("True", "True")


def test_a_shut_gate_stays_shut_for_who_comes_later(tmp_path):
    assert Gate(str(tmp_path / "gate")).shut(soon())
    with Gate(str(tmp_path / "gate")).passing() as is_open:
        assert not is_open


def test_a_batch_that_raises_leaves_the_gate(tmp_path):
    gate = Gate(str(tmp_path / "gate"))
    with pytest.raises(KeyError), gate.passing():
        raise KeyError("a defect")
    assert Gate(str(tmp_path / "gate")).shut(at_once())


def test_no_file_is_a_gate_that_is_always_open():
    gate = Gate("")
    assert gate.shut(at_once())
    with gate.passing() as is_open:
        assert is_open
