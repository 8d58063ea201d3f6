"""One optimistic attempt at a batch: read the sessions, plan and run wave by wave in memory, then commit everything at once.

Only the commit has effects outside the attempt.
"""

import logging
import math
import secrets
from collections.abc import Sequence

from handlers.engine import usual_steps
from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.model_runs import FinishedRuns
from handlers.engine.scheduling import waves
from handlers.engine.task import Task, depending_on, fail
from handlers.engine.transitions import plan
from handlers.errors import CellstateError, InternalError, StoreUnavailable
from handlers.sessions.unit_of_work import UnitOfWork

log = logging.getLogger("cellstate")


class BatchAttempt:
    """Serves its tasks once. `now` and `latest` are those of the batch, `deadline` monotonic seconds."""

    def __init__(self, context: ServiceContext, tasks: Sequence[Task], now: float, latest: float, deadline: float = math.inf) -> None:
        self._context, self._tasks, self._deadline = context, tasks, deadline
        random = secrets.randbits(48) + 1
        sessions = UnitOfWork(context.store, context.signature.name, context.settings.tombstone_ttl, random)
        self._batch = Batch(context, sessions, now, latest)

    def serve(self) -> Sequence[Task]:
        """Give every task its reply or error, and return the tasks whose session another worker changed meanwhile, reset."""
        self._read()
        for wave in waves(usual_steps.serve(self._batch, [task for task in self._tasks if task.error is None], self._deadline)):
            for task in wave:
                try:
                    plan(self._batch, task)
                except Exception as e:
                    fail([task], _row_error(e))
            self._run([task for task in wave if task.run is not None and task.error is None])
        return self._commit()

    def _read(self) -> None:
        names = {name for task in self._tasks for name in task.names}
        if not names:
            return
        try:
            with self._context.telemetry.timing("read"):
                self._batch.sessions.read(names)
        except StoreUnavailable as e:
            self._context.telemetry.count("store_errors_total", 1, "read")
            fail((task for task in self._tasks if task.names), e)

    def _run(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        with self._context.telemetry.timing("run"):
            finished = FinishedRuns(self._batch, tasks, self._deadline)
        with self._context.telemetry.timing("encode"):
            for i, task in enumerate(tasks):
                try:
                    finished.complete(i, task)
                except Exception as e:
                    fail([task], _row_error(e))

    def _commit(self) -> Sequence[Task]:
        sessions, telemetry = self._batch.sessions, self._context.telemetry
        if not sessions.has_changes:
            return ()
        try:
            with telemetry.timing("commit"):
                lost_names = sessions.commit()
        except StoreUnavailable as e:
            telemetry.count("store_errors_total", 1, "commit")
            fail(depending_on(self._tasks, sessions.changed), e)
            return ()
        lost = depending_on(self._tasks, lost_names) if lost_names else []
        for task in lost:
            task.reset()
        telemetry.count("commit_conflicts_total", len(lost_names))
        return lost


def _row_error(error: Exception) -> CellstateError:
    """Return the error of the one row in which `error` was raised. A defect of the service is logged and answered 500."""
    if isinstance(error, CellstateError):
        return error
    log.error("internal_error", exc_info=error)
    return InternalError("the service failed on this request; nothing was applied")
