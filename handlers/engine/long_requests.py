"""Bounds what long requests may hold up: those with many time steps or a far horizon take turns, and short ones pass between them.

A worker answers a batch as a whole, so that a short request waits for the long ones of its batch. Two bounds keep that short: a batch takes
long requests only up to a number of steps, and of the workers that share a server only one runs many of them at a time.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from handlers.engine.request import Request
from handlers.engine.task import Task

RUN_STEPS = 9  # a model run takes as long as so many steps more of rows that run together


class LongRequests:
    """The long requests of one server. `path` is a file that its workers share; with an empty one each worker counts for itself.

    A request is long from `long_steps` time steps on, its horizon along each sampled path included. Long requests of a batch that come to
    no more than `free_steps` run at once; for more a worker takes its turn. The first long request of a turn runs however long it is, and
    further ones as long as all of them come to no more than `max_steps`.
    """

    def __init__(self, path: str, long_steps: int, free_steps: int, max_steps: int) -> None:
        self._long_steps, self._free_steps, self._max_steps = long_steps, free_steps, max_steps
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None

    @contextmanager
    def admit(self, tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
        """Yield the tasks that must wait, while the others run. The kernel ends the turn of a worker that dies."""
        long = [task for task in tasks if steps(task.request) >= self._long_steps]
        beyond = _beyond(long, self._free_steps)
        if not beyond or self._file is None:
            yield _beyond(long[1:], self._max_steps, long[:1]) if beyond else ()
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield beyond
            return
        try:
            yield _beyond(long[1:], self._max_steps, long[:1])
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _beyond(tasks: Sequence[Task], limit: int, admitted: Sequence[Task] = ()) -> list[Task]:
    """Return the tasks that, after those admitted, do not fit into so many steps. Rollouts of one batch share their model runs."""
    refused = []
    total, runs = sum([steps(task.request) for task in admitted]), max([task.request.horizon for task in admitted], default=0)
    for task in tasks:
        new_total, new_runs = total + steps(task.request), max(runs, task.request.horizon)
        if new_total + RUN_STEPS * new_runs > limit:
            refused.append(task)
        else:
            total, runs = new_total, new_runs
    return refused


def steps(request: Request) -> int:
    """Return the time steps for which the model runs: the inputs', and the forecast's along each of its paths."""
    forecast = request.horizon * (1 + request.paths)
    return forecast if request.inputs is None else len(request.inputs) + forecast
