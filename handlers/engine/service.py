"""The core of the service: requests in, one reply or error each, whatever the protocol, the server, the store and the runtime."""

import logging
import random
import secrets
import time
from collections.abc import Callable, Sequence

from handlers.engine.attempt import BatchAttempt
from handlers.engine.context import ServiceContext
from handlers.engine.drain import DrainLock
from handlers.engine.long_requests import LongRequests
from handlers.engine.request import Request
from handlers.engine.request_metrics import record_request_metrics
from handlers.engine.task import ReplyEncoder, Task, fail, touched
from handlers.errors import CellstateError, Draining, InternalError, Overloaded
from handlers.keys import ANYONE, Caller
from handlers.sessions.sweeper import Sweeper

log = logging.getLogger("cellstate")
BACKOFF = 0.002  # seconds, at most, before the second attempt at a contended session; doubles with each further one
MAX_BACKOFF = 0.05


class Service:
    """One served model. One thread calls it: the stores, the quota and the sweeper have no locks of their own.

    `clock` gives seconds since the epoch, `sleep` waits for seconds. `latest` gives those from which the lifetime of a session is counted,
    where they may be later than the clock's.
    """

    def __init__(
        self,
        context: ServiceContext,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        latest: Callable[[], float] | None = None,
    ) -> None:
        self.context, self._settings, self._clock, self._sleep = context, context.settings, clock, sleep
        self._latest = clock if latest is None else latest
        self._telemetry = context.telemetry
        self._drain_lock = DrainLock(context.settings.gate_file)
        turns = f"{self._settings.gate_file}.long" if self._settings.gate_file else ""
        self._long_requests = LongRequests(turns, self._settings.long_steps, self._settings.free_long_steps, self._settings.max_long_steps)
        self._sweeper = Sweeper(context.store, context.settings, context.telemetry, clock())

    def task(self, request: Request | CellstateError, call: ReplyEncoder, caller: Caller = ANYONE) -> Task:
        """Make the task of one request of `caller`; `call` turns its result into the reply. A refused request is an error already."""
        if isinstance(request, CellstateError):
            return Task(Request(), call, caller, error=request)
        if request.session is None:
            return Task(request, call, caller)
        id = request.session.id or secrets.token_urlsafe(16)
        return Task(request, call, caller, id, request.request_hash(), touched(request.session, caller.tenant, id))

    def serve(self, tasks: Sequence[Task]) -> None:
        """Give every task its reply or error. Raises nothing: a defect of the service is the error of the tasks that it concerns."""
        now, live, failed = self._clock(), [task for task in tasks if task.error is None], False
        try:
            with self._drain_lock as is_open:
                if is_open:
                    self._take_turns(live, now)
                else:
                    fail(live, Draining("the service is stopping; nothing was changed: send it again to reach another, or the next"))
        except Exception:  # TorchServe would fail the whole batch for it
            log.exception("internal_error")
            failed = True
        if unknown := [task for task in live if (task.reply is None and task.error is None) or (failed and task.names)]:
            message = "the service failed on this request; whether it was applied is not known: send the same step again"
            fail(unknown, InternalError(message))
        self._look_after(tasks, now)

    def _take_turns(self, tasks: Sequence[Task], now: float) -> None:
        long = self._long_requests.among(tasks)
        if not long:
            self._attempt(tasks, now)
            return
        with self._long_requests.admit(long) as refused:
            steps = self._settings.long_steps
            fail(
                refused, Overloaded(f"requests of {steps} steps and more take turns; nothing was applied: try again, or send fewer at once")
            )
            self._attempt([task for task in tasks if task.error is None], now)

    def _attempt(self, tasks: Sequence[Task], now: float) -> None:
        deadline, latest = time.monotonic() + self._settings.batch_seconds, max(now, self._latest())
        for attempt in range(self._settings.commit_attempts):
            if not tasks:
                return
            if attempt:
                self._telemetry.count("retries_total", len(tasks))
                self._sleep(random.uniform(0, min(MAX_BACKOFF, BACKOFF * 2**attempt)))
            tasks = BatchAttempt(self.context, tasks, now, latest, deadline).serve()
        attempts = self._settings.commit_attempts
        fail(tasks, Overloaded(f"the session changed under {attempts} tries to commit; nothing was applied: try again"))

    def _look_after(self, tasks: Sequence[Task], now: float) -> None:
        """Sweep and count. The requests are answered by now: what fails here is logged only."""
        try:
            self._sweeper.run_if_due(now)
            record_request_metrics(self._telemetry, tasks)
        except Exception:
            log.exception("internal_error")
