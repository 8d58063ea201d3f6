"""A gate between a worker and whoever stops it: one file, shared by the processes of a deployment.

A worker holds the gate (a shared lock) while it serves a batch. Who stops the service closes it (writes a byte into the file), after which
every new batch is turned away, and then waits for the exclusive lock: once it is granted, nothing is being served any more. A process that
dies lets go of its lock. `python -m host` closes it; the handler passes through it. Locks are Linux's `flock`.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """`path` is made when it is not there; an empty `path` is a gate that is always open."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None

    @contextmanager
    def passing(self) -> Iterator[bool]:
        """Hold the gate for one batch; True when it is open."""
        if self._file is None:
            yield True
            return
        fcntl.flock(self._file, fcntl.LOCK_SH)
        try:
            yield os.fstat(self._file).st_size == 0
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def shut(self, deadline: float) -> bool:
        """Turn new batches away and wait, until the monotonic `deadline`, for those inside; whether all of them are out."""
        if self._file is None:
            return True
        os.pwrite(self._file, b"x", 0)
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(self._file, fcntl.LOCK_UN)
                return True
            except BlockingIOError:
                time.sleep(0.005)
        return False
