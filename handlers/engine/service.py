"""The service's core: request bodies in, one outcome each out. No server in it, no torch, no sockets.

`handle_batch` parses, serves in rounds until no session is contended any more, and encodes. What a round does is in `rounds`.
"""

import logging
import secrets
import time
from collections.abc import Callable, Sequence

import orjson

from handlers.engine.attempt import Round
from handlers.engine.context import Deployment
from handlers.engine.drain import DrainLock
from handlers.engine.request_metrics import tally
from handlers.engine.task import Task, fail
from handlers.errors import CellstateError, Draining, Overloaded
from handlers.protocols.native import encode as answers
from handlers.protocols.native.decode import Body, Parser, Request
from handlers.protocols.native.encode import Outcome
from handlers.sessions.sweeper import Sweeper

log = logging.getLogger("cellstate")


class Service:
    """One deployed model. `handle_batch` is the only way in. `clock` gives seconds since the epoch."""

    def __init__(self, deployment: Deployment, clock: Callable[[], float] = time.time) -> None:
        self._deployment, self._settings, self._clock = deployment, deployment.settings, clock
        self._telemetry = deployment.telemetry
        self._parser = Parser(deployment.signature, deployment.settings)
        self._drain_lock = DrainLock(deployment.settings.gate_file)
        self._sweeper = Sweeper(deployment.store, deployment.settings, deployment.telemetry, clock())

    def handle_batch(self, rows: Sequence[bytes]) -> list[Outcome]:
        """Answer each body, in order. Raises nothing that a client can cause."""
        with self._drain_lock.hold() as is_open:
            return self._handle(rows, is_open)

    def _handle(self, rows: Sequence[bytes], is_open: bool) -> list[Outcome]:
        now = self._clock()
        with self._telemetry.timing("decode"):
            bodies = [self._parser.body(row) for row in rows]
            groups = [self._open(body) for body in bodies]
        tasks = [task for group in groups for task in group]
        live = [task for task in tasks if task.error is None]
        if is_open:
            self._serve(live, now)
        else:
            fail(live, Draining("the service is stopping; nothing was changed: send it again to reach another, or the next"))
        self._sweeper.run_if_due(now)
        tally(self._telemetry, tasks)
        if log.isEnabledFor(logging.INFO):
            self._log(tasks, len(rows))
        return [_outcome(body, group) for body, group in zip(bodies, groups, strict=True)]

    def _open(self, body: Body) -> list[Task]:
        room = self._settings.max_reply // len(body.requests)
        return [self._task(request, room) for request in body.requests]

    def _task(self, request: Request | CellstateError, room: int) -> Task:
        if isinstance(request, CellstateError):
            return Task(Request(), room, error=request)
        if request.session is None:
            return Task(request, room)
        return Task(request, room, request.session.id or secrets.token_urlsafe(16), request.digest())

    def _serve(self, tasks: Sequence[Task], now: float) -> None:
        deadline = time.monotonic() + self._settings.batch_seconds
        for attempt in range(self._settings.commit_attempts):
            if not tasks:
                return
            if attempt:
                self._telemetry.count("retries_total", len(tasks))
            tasks = Round(self._deployment, tasks, now, deadline).serve()
        fail(
            tasks, Overloaded(f"the session changed under {self._settings.commit_attempts} tries to commit; nothing was applied: try again")
        )

    def _log(self, tasks: Sequence[Task], batch: int) -> None:
        """One canonical line a request: names and numbers, no payloads. An id that reaches it has passed the parser's pattern."""
        for task in tasks:
            session, inputs, error = task.request.session, task.request.inputs, task.error
            fields = {
                "model": self._deployment.signature.label,
                "session": task.id or None,
                "action": session.action if session else None,
                "steps": 0 if inputs is None else len(inputs),
                "status": error.status if error else 200,
                "code": error.code if error else "ok",
                "batch": batch,
            }
            log.info("request %s", orjson.dumps(fields).decode())


def _outcome(body: Body, tasks: Sequence[Task]) -> Outcome:
    if body.many:
        return Outcome(200, "OK", answers.predictions([answers.refusal(t.error) if t.error else t.reply for t in tasks]))
    error = tasks[0].error
    return Outcome(error.status, error.phrase, answers.refusal(error)) if error else Outcome(200, "OK", tasks[0].reply)
