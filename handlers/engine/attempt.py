"""One optimistic attempt at a batch: read the sessions, plan and run wave by wave in memory, then commit everything at once.

Only the commit has effects outside the attempt.
"""

import logging
import math
import secrets
from collections.abc import Sequence
from types import TracebackType

from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.model_runs import FinishedRuns
from handlers.engine.scheduling import waves
from handlers.engine.task import Task, depending_on, fail
from handlers.engine.transitions import plan
from handlers.errors import CellstateError, InternalError, StoreUnavailable
from handlers.sessions.unit_of_work import UnitOfWork

log = logging.getLogger("cellstate")


class row_errors:  # reads as a statement: `with row_errors(task):`
    """What goes wrong inside is the task's error, and nobody else's. A defect of the service is logged and answered 500."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        self._task = task

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is None:
            return True
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, CellstateError):
            log.error("internal_error", exc_info=error)
            error = InternalError("the service failed on this request; nothing was applied")
        self._task.reply, self._task.error = None, error
        return True


class BatchAttempt:
    """Serves its tasks once. `now` is seconds since the epoch, `deadline` monotonic seconds."""

    def __init__(self, context: ServiceContext, tasks: Sequence[Task], now: float, deadline: float = math.inf) -> None:
        self._context, self._tasks, self._deadline = context, tasks, deadline
        random = secrets.randbits(48) + 1
        self._batch = Batch(context, UnitOfWork(context.store, context.signature.name, context.rules, now, random), now)

    def serve(self) -> Sequence[Task]:
        """Give every task its reply or error, and return the tasks whose session another worker changed meanwhile, reset."""
        self._read()
        for wave in waves(task for task in self._tasks if task.error is None):
            for task in wave:
                with row_errors(task):
                    plan(self._batch, task)
            self._run([task for task in wave if task.run is not None and task.error is None])
        return self._commit()

    def _read(self) -> None:
        keys = {key for task in self._tasks for key in task.keys}
        if not keys:
            return
        try:
            with self._context.telemetry.timing("read"):
                self._batch.sessions.read(keys)
        except StoreUnavailable as e:
            self._context.telemetry.count("store_errors_total", 1, "read")
            fail((task for task in self._tasks if task.keys), e)

    def _run(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        with self._context.telemetry.timing("run"):
            finished = FinishedRuns(self._batch, tasks, self._deadline)
        with self._context.telemetry.timing("encode"):
            for i, task in enumerate(tasks):
                with row_errors(task):
                    finished.complete(i, task)

    def _commit(self) -> Sequence[Task]:
        sessions, telemetry = self._batch.sessions, self._context.telemetry
        if not sessions.changed:
            return ()
        try:
            with telemetry.timing("commit"):
                lost_keys = sessions.commit()
        except StoreUnavailable as e:
            telemetry.count("store_errors_total", 1, "commit")
            fail(depending_on(self._tasks, sessions.changed), e)
            return ()
        lost = depending_on(self._tasks, lost_keys) if lost_keys else []
        for task in lost:
            task.reset()
        telemetry.count("commit_conflicts_total", len(lost_keys))
        return lost
