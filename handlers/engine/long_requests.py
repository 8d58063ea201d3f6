"""Bounds what long requests may hold up: those with many time steps or a far horizon take turns, and short ones pass between them.

A worker answers a batch as a whole, so that a short request waits for the long ones of its batch. Two bounds keep that short: a batch takes
long requests only up to a number of steps, and of the workers that share a server only one runs long requests at a time.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from handlers.engine.task import Task


class LongRequests:
    """The long requests of one server. `path` is a file that its workers share; with an empty one each worker counts for itself.

    A request is long from `long_steps` time steps on, its horizon along each sampled path included. The first long request of a batch runs
    however long it is, and further ones as long as all of them come to no more than `max_steps`.
    """

    def __init__(self, path: str, long_steps: int, max_steps: int) -> None:
        self._long_steps, self._max_steps = long_steps, max_steps
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None

    @contextmanager
    def admit(self, tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
        """Yield the tasks that must wait, while the others run. The kernel ends the turn of a worker that dies."""
        long = [task for task in tasks if steps(task) >= self._long_steps]
        if not long or self._file is None:
            yield self._beyond_budget(long)
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield long
            return
        try:
            yield self._beyond_budget(long)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _beyond_budget(self, long: Sequence[Task]) -> list[Task]:
        refused, admitted = [], 0
        for task in long:
            if admitted and admitted + steps(task) > self._max_steps:
                refused.append(task)
            else:
                admitted += steps(task)
        return refused


def steps(task: Task) -> int:
    """Return the time steps for which the model runs: the inputs', and the forecast's along each of its paths."""
    request = task.request
    forecast = request.horizon * (1 + request.paths)
    return forecast if request.inputs is None else len(request.inputs) + forecast
