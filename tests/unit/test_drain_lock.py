"""The drain lock between real processes: batches being served are waited for, later ones refused, dead processes release it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.engine.drain import DrainLock

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from handlers.engine.drain import DrainLock
lock = DrainLock(sys.argv[1])
for _ in sys.stdin:  # a line: take the lock; the next line: release it
    with lock as is_open:
        print(is_open, flush=True)
        sys.stdin.readline()
    print("out", flush=True)
"""


@contextmanager
def worker(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock when it is told to."""
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


def test_a_batch_being_served_is_waited_for_and_the_next_is_refused(tmp_path):
    lock = DrainLock(str(tmp_path / "lock"))
    with worker(tmp_path / "lock") as process:
        assert tell(process) == "True"
        assert not lock.drain(at_once()), "a batch is being served"
        assert tell(process) == "out"
        assert lock.drain(soon())
        assert tell(process) == "False"


def test_a_killed_worker_releases_the_lock(tmp_path):
    lock = DrainLock(str(tmp_path / "lock"))
    with worker(tmp_path / "lock") as process:
        assert tell(process) == "True"
        process.kill()
        process.wait()
        assert lock.drain(soon())


def test_two_workers_hold_the_lock_together(tmp_path):
    with worker(tmp_path / "lock") as one, worker(tmp_path / "lock") as other:
        assert (tell(one), tell(other)) == ("True", "True")


def test_a_process_that_comes_after_the_drain_is_refused(tmp_path):
    assert DrainLock(str(tmp_path / "lock")).drain(soon())
    with DrainLock(str(tmp_path / "lock")) as is_open:
        assert not is_open


def test_a_batch_that_raises_releases_the_lock(tmp_path):
    lock = DrainLock(str(tmp_path / "lock"))
    with pytest.raises(KeyError), lock:
        raise KeyError("a defect")
    assert DrainLock(str(tmp_path / "lock")).drain(at_once())


def test_without_a_file_the_lock_is_always_open():
    lock = DrainLock("")
    assert lock.drain(at_once())
    with lock as is_open:
        assert is_open


def test_a_closed_lock_is_no_longer_held(tmp_path):
    lock = DrainLock(str(tmp_path / "lock"))
    with worker(tmp_path / "lock") as process:
        assert tell(process) == "True"
        lock.close()
        lock.close()
        assert tell(process) == "out"
    assert DrainLock(str(tmp_path / "lock")).drain(at_once())


def test_draining_takes_no_block_of_a_disk_that_may_be_full(tmp_path):
    lock = DrainLock(str(tmp_path / "gate"))
    assert lock.drain(time.monotonic() + 10)
    with lock as is_open:
        assert not is_open
    assert (tmp_path / "gate").stat().st_blocks == 0
    lock.close()
