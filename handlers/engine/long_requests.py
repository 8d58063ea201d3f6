"""Bounds what long requests may hold up: those with many time steps or a far horizon take turns, and short ones pass between them.

A worker answers a batch as a whole, so that a short request waits for the long ones of its batch. Two bounds keep that short: a batch takes
long requests only up to a number of steps, and of the workers that share a server only one runs many of them at a time. Where not all of a
batch are taken, those come first whose callers had the fewest steps lately.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from handlers.engine.request import Request
from handlers.engine.task import Task
from handlers.keys import Caller

RUN_STEPS = 9  # a model run takes as long as so many steps more of rows that run together


class LongRequests:
    """The long requests of one server. `path` is a file that its workers share; with an empty one each worker counts for itself.

    A request is long from `long_steps` time steps on, its horizon along each sampled path included. Long requests of a batch that come to
    no more than `free_steps` run at once; for more a worker takes its turn. The first long request of a turn runs however long it is, and
    further ones as long as all of them come to no more than `max_steps`. `clock` gives seconds and never goes back.
    """

    def __init__(self, path: str, long_steps: int, free_steps: int, max_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._usage = _Usage(clock)
        self._long_steps, self._free_steps, self._max_steps = long_steps, free_steps, max_steps
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else None

    def among(self, tasks: Sequence[Task]) -> list[Task]:
        """Return which of the tasks are long."""
        return [task for task in tasks if steps(task.request) >= self._long_steps]

    @contextmanager
    def admit(self, long: Sequence[Task]) -> Iterator[Sequence[Task]]:
        """Yield those of the long tasks that must wait, while the others run. The kernel ends the turn of a worker that dies."""
        long = self._usage.by_share(long)
        taken, refused = _split(long, self._free_steps)
        has_turn = bool(refused) and self._take_turn()
        try:
            if has_turn:
                taken, refused = _split(long, self._max_steps, always=1)
            self._usage.add(taken)
            yield refused
        finally:
            if has_turn and self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take_turn(self) -> bool:
        if self._file is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class _Usage:
    """The time steps of long requests that each caller had lately. Half of them are forgotten every second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._steps, self._at = clock, dict[Caller, float](), clock()

    def by_share(self, tasks: Sequence[Task]) -> list[Task]:
        """Order the tasks by the steps that their callers had, those of the caller's tasks before them included."""
        self._forget()
        used, before = dict(self._steps), []
        for task in tasks:
            had = used.get(task.caller, 0.0)
            before.append(had)
            used[task.caller] = had + steps(task.request)
        return [tasks[i] for i in sorted(range(len(tasks)), key=before.__getitem__)]

    def add(self, tasks: Sequence[Task]) -> None:
        """Count tasks that are about to run."""
        for task in tasks:
            self._steps[task.caller] = self._steps.get(task.caller, 0.0) + steps(task.request)

    def _forget(self) -> None:
        now = self._clock()
        left = 0.5 ** (now - self._at)
        self._steps = {caller: had * left for caller, had in self._steps.items() if had * left >= 1}
        self._at = now


def _split(tasks: Sequence[Task], limit: int, always: int = 0) -> tuple[list[Task], list[Task]]:
    """Cut the tasks into those that fit into so many steps, the first `always` however long they are, and the others.

    Rollouts of one batch share their model runs.
    """
    taken, left, total, runs = list[Task](), list[Task](), 0, 0
    for task in tasks:
        new_total, new_runs = total + steps(task.request), max(runs, task.request.horizon)
        if len(taken) < always or new_total + RUN_STEPS * new_runs <= limit:
            taken.append(task)
            total, runs = new_total, new_runs
        else:
            left.append(task)
    return taken, left


def steps(request: Request) -> int:
    """Return the time steps for which the model runs: the inputs', and the forecast's along each of its paths."""
    own = 0 if request.inputs is None else len(request.inputs)
    return own + request.horizon * (1 + request.paths) if request.horizon else own
