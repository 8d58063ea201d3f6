"""One round: read the sessions, then plan -> run -> settle wave by wave in memory, then commit all of it at once.

Only the commit has effects outside the round. The requests of one session run in the order of their arrival, those of different sessions
run together.
"""

import logging
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from handlers.engine.context import Deployment
from handlers.engine.task import Step, Task, fail, hanging_on, waves
from handlers.errors import (
    CellstateError,
    InternalError,
    InvalidInput,
    ModelChanged,
    NonFiniteResult,
    Overloaded,
    StepConflict,
    StoreUnavailable,
)
from handlers.inference import batching
from handlers.inference.batching import Row
from handlers.protocols.native import encode as answers
from handlers.sessions import machine as sessions
from handlers.sessions.machine import Move
from handlers.sessions.record import Inputs, Record
from handlers.sessions.state import MAX_POSITION, State, Vector
from handlers.sessions.unit_of_work import Account, Ledger

log = logging.getLogger("cellstate")


class Round:
    """Serves its tasks once. Discard it afterwards."""

    def __init__(self, deployment: Deployment, tasks: Sequence[Task], now: float, deadline: float = math.inf) -> None:
        self._backend, self._signature = deployment.backend, deployment.signature
        self._settings, self._key, self._now = deployment.settings, deployment.key, now
        self._telemetry, self._quota = deployment.telemetry, deployment.quota
        self._ledger = Ledger(
            deployment.store, self._signature.name, self._signature.digest, self._settings.tombstone_ttl, now, secrets.randbits(48) + 1
        )
        self._tasks, self._deadline, self._begun = tasks, deadline, 0

    def serve(self) -> Sequence[Task]:
        """Give every task its reply or error; returns those whose session another worker changed meanwhile, as if untouched."""
        self._read()
        for wave in waves(task for task in self._tasks if task.error is None):
            steps = [step for task in wave if (step := self._attempt(task, self._plan, task)) is not None]
            if steps:
                self._serve_wave(steps)
        return self._commit()

    def _serve_wave(self, steps: Sequence[Step]) -> None:
        with self._telemetry.timing("run"):
            self._run(steps)
        with self._telemetry.timing("encode"):
            for step in steps:
                self._attempt(step.task, self._settle, step)

    def _read(self) -> None:
        ids = {id for task in self._tasks for id in task.ids}
        if not ids:
            return
        try:
            with self._telemetry.timing("read"):
                self._ledger.read(ids)
        except StoreUnavailable as e:
            self._telemetry.count("store_errors_total", 1, "read")
            fail((task for task in self._tasks if task.ids), e)

    def _commit(self) -> Sequence[Task]:
        if not self._ledger.changed:
            return ()
        try:
            with self._telemetry.timing("commit"):
                ids = self._ledger.commit()
        except StoreUnavailable as e:
            self._telemetry.count("store_errors_total", 1, "commit")
            fail(hanging_on(self._tasks, self._ledger.changed), e)
            return ()
        lost = hanging_on(self._tasks, ids)
        for task in lost:
            task.begin_again()
        self._telemetry.count("commit_conflicts_total", len(ids))
        return lost

    def _attempt(self, task: Task, work: Callable[[Any], Step | None], argument: Any) -> Step | None:
        """Do one task's part; what goes wrong there is that task's alone."""
        try:
            return work(argument)
        except CellstateError as e:
            task.error = e
        except Exception:  # a defect of ours must not take the batch's other rows with it
            log.exception("internal_error")
            task.error = InternalError("the service failed on this request; nothing was applied")
        return None

    # Plan: what a request means. Returns the step to run; None when it is answered already.

    def _plan(self, task: Task) -> Step | None:
        if task.request.session is None:
            state = task.request.state
            return self._step(task, state.values if state else None, state.position if state else 0, None)
        account, begets = self._ledger[task.id], task.ref.action == "import"
        ask = sessions.begotten if begets else sessions.event
        what = ask(task.ref, task.digest, account.record, account.phase)
        task.move = sessions.decide(what, account.phase, task.id, task.ref, account.record)
        return self._MOVES[task.move](self, task, account)

    def _step(self, task: Task, state: Vector | None, position: int, record: Record | None) -> Step:
        assert task.request.inputs is not None  # the parser demands it of a step
        initial = self._signature.initial_state if state is None else state
        return Step(task, Row(task.request.inputs, initial, "output" in task.request.wants), position, record)

    def _create(self, task: Task, account: Account) -> Step:
        if task.request.commit:
            self._admit(task.id)
        state = task.request.state
        return self._step(task, state.values if state else None, 0, None)

    def _admit(self, id: str) -> None:
        """Ask for room when the session is one more in the store."""
        if self._ledger[id].record is not None:
            return
        try:
            self._quota.admit(self._begun)
            self._begun += 1
        except StoreUnavailable:
            self._telemetry.count("store_errors_total", 1, "usage")
            raise

    def _apply(self, task: Task, account: Account) -> Step:
        record = _recorded(account)
        return self._step(task, record.state.values, record.state.position, record)

    def _rebuild(self, task: Task, account: Account) -> Step:
        """The state was made by another model: run the recorded inputs through this one from the start of a stream, then the step's."""
        record, inputs = _recorded(account), task.request.inputs
        assert inputs is not None  # as above
        recent = record.recent if self._settings.rewarm_steps else None
        enough = recent is not None and len(recent) >= min(record.state.position, self._settings.rewarm_steps)
        if recent is None or not enough or recent.dtype != inputs.dtype or recent.shape[1:] != inputs.shape[1:]:
            sessions.refuse(ModelChanged, account.phase, task.id, task.ref, record)
        step = self._step(task, None, record.state.position, record)
        step.row.x, step.rewarmed = np.concatenate([recent, inputs]), len(recent)
        return step

    def _take_back(self, task: Task, account: Account) -> None:
        """Go back to a kept state; what came after it is forgotten."""
        record = _recorded(account)
        if task.ref.origin is not None and task.ref.origin != record.state.position:
            sessions.refuse(StepConflict, account.phase, task.id, task.ref, record)
        target = record.earlier(task.ref.step or 0)
        if target is None:
            kept = ", ".join(str(s.position) for s in (record.state, *record.history))
            raise InvalidInput(f"session.step: {task.ref.step} is not kept; kept: {kept} (keep_versions is {self._settings.keep_versions})")
        rewound = record.rewound(target, task.digest, self._now + self._settings.session_ttl)
        self._answer(task, task.id, rewound)
        self._ledger.put(task.id, rewound)

    def _replay(self, task: Task, account: Account) -> None:
        record = _recorded(account)
        self._answer(task, task.id, record, task.fit(record.answer), replayed=True)

    def _show(self, task: Task, account: Account) -> None:
        record = _recorded(account)
        if task.ref.action == "fork":
            self._fork(task, record)
        elif task.ref.action == "describe":
            task.reply = self._response(b"", sessions.describe(task.id, record))
        else:
            text = answers.state_text(record.state, self._key) if task.ref.action == "export" else b""
            self._answer(task, task.id, record, task.fit(text))

    def _fork(self, task: Task, source: Record) -> None:
        id = task.ref.to or ""  # the parser demands one
        target = self._ledger[id]
        what = sessions.begotten(task.ref, task.digest, target.record, target.phase)
        task.move = sessions.decide(what, target.phase, id, task.ref, target.record)
        if task.move is Move.REPLAY:
            self._answer(task, id, _recorded(target), replayed=True)
        else:
            self._write(task, id, source.state, task.id)
            task.hangs_on = (id,)  # should the source lose a change of this very round, the ledger takes its copy along

    def _bear(self, task: Task, account: Account) -> None:
        assert task.request.state is not None  # the parser demands it of an import
        self._write(task, task.id, task.request.state)

    def _write(self, task: Task, id: str, state: State, source: str | None = None) -> None:
        """A session that begins with a state instead of a step."""
        self._admit(id)
        record = Record(state, self._now, self._now + self._settings.session_ttl, state.position, task.digest, b"")
        self._answer(task, id, record)
        self._ledger.put(id, record, source)

    def _end(self, task: Task, account: Account) -> None:
        closed = _recorded(account).tombstone(self._now)
        self._answer(task, task.id, closed)
        self._ledger.put(task.id, closed)

    _MOVES: ClassVar[dict[Move, Callable[..., Step | None]]] = {
        Move.CREATE: _create,
        Move.APPLY: _apply,
        Move.REBUILD: _rebuild,
        Move.TAKE_BACK: _take_back,
        Move.REPLAY: _replay,
        Move.SHOW: _show,
        Move.END: _end,
        Move.BEAR: _bear,
    }

    # Run: the model over one wave, then the forecasts of those that asked for one.

    def _run(self, steps: Sequence[Step]) -> None:
        most, deadline = self._settings.max_batch, self._deadline
        batching.run(self._backend, self._signature, [step.row for step in steps], most, deadline)
        rolling = [step for step in steps if step.task.request.horizon and step.row.error is None]
        rows = [(step.row, step.task.request.horizon, step.task.request.future) for step in rolling]
        for step, forecast in zip(rolling, batching.roll(self._backend, self._signature, rows, most, deadline), strict=True):
            step.forecast = forecast

    # Settle: check one result and put it in the ledger. Raises before anything is changed.

    def _settle(self, step: Step) -> None:
        task, row = step.task, step.row
        if isinstance(row.error, batching.OutOfTime):
            raise Overloaded(
                f"the batch did not end within {self._settings.batch_seconds:g} s; nothing was applied: try again, or ask for less at once"
            )
        if row.error is not None:
            log.error("model_failed %.500r", str(row.error))
            raise InternalError("the model's runtime failed on this request; nothing was applied") from row.error
        if not row.finite or (step.forecast is not None and not np.isfinite(step.forecast).all()):
            raise NonFiniteResult("inputs: the model's result for them is not finite; nothing was applied: send inputs in its range")
        row.forget(step.rewarmed)
        position = step.position + len(row.x)
        if position > MAX_POSITION:
            raise InvalidInput(f"session, state: {position} would be beyond the last position, {MAX_POSITION}; start another stream")
        fragment = task.fit(answers.result(row, step.forecast, task.request.wants, position, self._signature, self._key))
        if task.request.session is None:
            task.reply = self._response(fragment, None)
        else:
            self._advance(step, position, fragment)

    def _advance(self, step: Step, position: int, fragment: bytes) -> None:
        """The session's new record, unless the request said `commit: false`."""
        task, old = step.task, step.record
        state, created_at = State(step.row.state, position, self._signature.digest), old.created_at if old else self._now
        record = Record(state, created_at, self._now + self._settings.session_ttl, step.position, task.digest, fragment)
        record = replace(record, history=self._history(step), recent=self._recent(step))
        more = {"rewarmed": True} if step.rewarmed else {}
        if task.request.commit:
            self._answer(task, task.id, record, fragment, **more)
            self._ledger.put(task.id, record)
        else:
            self._answer(task, task.id, old or replace(record, state=replace(state, position=0)), fragment, **more)

    def _history(self, step: Step) -> tuple[State, ...]:
        """The states to keep behind the new one; those of another model are of no use."""
        keep = self._settings.keep_versions
        if not keep or step.rewarmed:
            return ()
        before = step.record.state if step.record else State(step.before, 0, self._signature.digest)
        return (before, *(step.record.history if step.record else ()))[:keep]

    def _recent(self, step: Step) -> Inputs | None:
        keep = self._settings.rewarm_steps
        earlier = [step.record.recent] if step.record and step.record.recent is not None else []
        return np.concatenate([*earlier, step.row.x])[-keep:] if keep else None

    def _answer(self, task: Task, id: str, record: Record, fragment: bytes = b"", **more: Any) -> None:
        """Reply with where a session stands; before it is put in the ledger, for what cannot be answered must not be committed."""
        task.reply = self._response(fragment, sessions.field(id, record) | more)

    def _response(self, fragment: bytes, session: dict[str, Any] | None) -> bytes:
        return answers.response(fragment, self._signature, session)


def _recorded(account: Account) -> Record:
    assert account.record is not None  # the table grants such moves only where there is a record
    return account.record
