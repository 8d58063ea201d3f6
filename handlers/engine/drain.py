"""A lock that lets a server drain: one file, shared by the worker processes and by whoever stops them.

A worker holds the lock (shared) while it serves a batch. `python -m host` drains: it makes the file a byte long, so that every later batch
is refused, and then waits for the exclusive lock; once that is granted, no batch is being served. The kernel releases the lock of a process
that dies. The lock is Linux's `flock`, which belongs to a file descriptor and not to a thread: see `DrainLock`.
"""

import fcntl
import os
import time


class DrainLock:
    """The lock in the file `path`, which is created when it is missing; with an empty `path` the lock is always open.

    One thread may hold an instance at a time: two threads would share one descriptor, and the first to leave would release it for both.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None

    def __enter__(self) -> bool:
        """Hold the lock for one batch; True unless the server is draining."""
        if self._file is None:
            return True
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return os.fstat(self._file).st_size == 0

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def drain(self, deadline: float) -> bool:
        """Refuse new batches, and wait for those being served until the monotonic time `deadline`; whether all of them finished."""
        if self._file is None:
            return True
        os.ftruncate(self._file, 1)  # makes it longer without a block of the disk, which may be full
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(self._file, fcntl.LOCK_UN)
                return True
            except BlockingIOError:
                time.sleep(0.005)
        return False

    def close(self) -> None:
        """Close the file; a lock that is held is released."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
