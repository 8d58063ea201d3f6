"""Runs the model for the tasks of one wave, and turns what it gives into replies and records."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from handlers.arrays import Array, Floats, Vector
from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.request import IMPUTED, OPAQUE, Result, interval_arrays
from handlers.engine.streams import Learned, learned, remembered, times
from handlers.engine.task import ModelRun, Task
from handlers.errors import InternalError, InvalidInput, NonFiniteResult, Overloaded
from handlers.forecasting import missing
from handlers.forecasting.intervals import Interval
from handlers.forecasting.rollout import RolloutRow, rollout
from handlers.inference import batching
from handlers.inference.backends.base import BackendError
from handlers.inference.batching import DeadlineExceeded
from handlers.sessions.record import Record, pack_arrays
from handlers.sessions.state import MAX_POSITION, State
from handlers.sessions.status import SessionStatus, status
from handlers.signature import Signature

log = logging.getLogger("cellstate")


class FinishedRuns:
    """What the model gave for the tasks of one wave. `complete` raises nothing of one task for another."""

    def __init__(self, batch: Batch, tasks: Sequence[Task], deadline: float = math.inf) -> None:
        context, runs = batch.context, [_run_of(task) for task in tasks]
        self._batch = batch
        states = np.concatenate([run.state for run in runs]).reshape(len(runs), -1)
        want_output, max_batch = ["output" in task.request.returns for task in tasks], context.settings.max_batch
        if any(run.missing for run in runs):
            rows = [missing.ObservedRow(run.inputs, run.memory) for run in runs]
            self._results = missing.run(context.backend, context.signature, rows, states, want_output, max_batch, deadline)
            for run, row in zip(runs, rows, strict=True):
                run.inputs = row.inputs  # as they ran: what a session keeps of them has no holes
        else:
            inputs = [run.inputs for run in runs]
            self._results = batching.run(context.backend, context.signature, inputs, states, want_output, max_batch, deadline)
        self._forecasts = self._roll_out(tasks, deadline)

    def _roll_out(self, tasks: Sequence[Task], deadline: float) -> dict[int, Floats | BackendError]:
        """Forecasts by row, of the rows that asked for one."""
        wanted = [i for i, task in enumerate(tasks) if task.request.horizon and self._results.errors[i] is None]
        if not wanted:
            return {}
        rows = []
        for i in wanted:
            y, request, run = self._results.y[i], tasks[i].request, _run_of(tasks[i])
            assert y is not None  # a row without an error has a y
            future = request.future if run.future is None else run.future
            rows.append(RolloutRow(y if y.ndim == 1 else y[-1], self._results.states[i], request.horizon, future))
        context = self._batch.context
        forecasts = rollout(context.backend, context.signature, rows, context.settings.max_batch, deadline)
        return dict(zip(wanted, forecasts, strict=True))

    def complete(self, i: int, task: Task) -> None:
        """Check the result of row i, make the reply, and put the session's new record into the unit of work.

        Raises:
            CellstateError: the result cannot be served; nothing is changed.
        """
        results, forecast, run = self._results, self._forecasts.get(i), _run_of(task)
        error = forecast if isinstance(forecast, BackendError) else results.errors[i]
        if error is not None:
            self._raise_failed(error)
        assert not isinstance(forecast, BackendError)
        if not results.finite[i] or (forecast is not None and not np.isfinite(forecast).all()):
            raise NonFiniteResult("inputs: the model's result for them is not finite; nothing was applied: send inputs in its range")
        position = run.position + len(run.inputs) - run.rewarmed
        if position > MAX_POSITION:
            raise InvalidInput(f"session, state: {position} would be beyond the last position, {MAX_POSITION}; start another stream")
        context, signature = self._batch.context, self._batch.context.signature
        state = State(results.states[i], position, signature.digest)
        arrays = _arrays(task, run, results.y[i], results.output[i], forecast, state.values, signature)
        at, known = times(context, run.time, task.request.horizon), learned(context, task, run, results.y[i])
        intervals = _intervals(context, task.request.levels, forecast, known)
        if task.request.session is None:
            held = state if OPAQUE in task.request.returns else None
            task.reply = task.encode(Result(signature.version, arrays, held, None, at, run.missing, intervals))
        else:
            if known is not None and known.adaptation is not None and intervals and forecast is not None:
                assert context.intervals is not None  # it gave the intervals
                known.adaptation = known.adaptation.forecast(context.intervals, forecast)
            state.forecast = remembered(context, run, results.y[i], known)
            self._advance(task, run, state, arrays, at, intervals)

    def _raise_failed(self, error: BackendError) -> None:
        if isinstance(error, DeadlineExceeded):
            seconds = self._batch.context.settings.batch_seconds
            raise Overloaded(f"the batch did not end within {seconds:g} s; nothing was applied: try again, or ask for less at once")
        log.error("model_failed %.500r", str(error))
        raise InternalError("the model's runtime failed on this request; nothing was applied") from error

    def _advance(
        self, task: Task, run: ModelRun, state: State, arrays: dict[str, Floats], at: Sequence[str], intervals: dict[int, Interval]
    ) -> None:
        """Answer a session's step, and put its record, unless the request said `commit: false`."""
        batch, old, opaque = self._batch, run.record, OPAQUE in task.request.returns
        version, imputed, recorded = batch.context.signature.version, run.missing, arrays
        if opaque:
            recorded = recorded | {OPAQUE: state.values}
        if intervals:
            recorded = recorded | interval_arrays(intervals)
        if imputed:
            recorded = recorded | {IMPUTED: np.array(imputed, np.float32)}
        record = Record(
            state,
            old.created_at if old else batch.now,
            batch.expires_at,
            run.position,
            task.request_hash,
            old.generation if old else 0,
            pack_arrays(recorded),
            version,
            generation=old.generation if old else run.generation,
        )
        _keep_earlier(record, run, batch.context.settings.keep_versions)
        record.recent = _recent(run, batch.context.settings.rewarm_steps, record)
        if task.request.close:
            record = record.tombstone(batch.now)
        after = status(task.id, record) if task.request.commit else _unmoved(task.id, record, old)
        after.rewarmed = run.rewarmed > 0
        task.reply = task.encode(Result(version, arrays, state if opaque else None, after, at, imputed, intervals))
        if task.request.commit:
            batch.sessions.put(task.names[0], record)


def _run_of(task: Task) -> ModelRun:
    assert task.run is not None  # only tasks with a run come here
    return task.run


def _arrays(
    task: Task, run: ModelRun, y: Floats | None, output: Floats | None, forecast: Floats | None, state: Vector, signature: Signature
) -> dict[str, Floats]:
    """The arrays that were asked for, by name. Steps that ran only to rebuild the state are left out."""
    arrays, returns = {}, task.request.returns
    if "prediction" in returns and y is not None:
        arrays["prediction"] = y[run.rewarmed :] if y.ndim == 2 else y
    if forecast is not None:
        arrays["forecast"] = forecast
    if "output" in returns and output is not None:
        arrays["output"] = output[run.rewarmed :]
    wanted = [name for name in signature.state_outputs if name in returns]
    if wanted:
        tensors = dict(zip(signature.state_outputs, batching.split(state[None], signature), strict=True))
        arrays |= {name: tensors[name][:, 0] for name in wanted}  # [L*D, size]
    return arrays


def _intervals(context: ServiceContext, levels: Sequence[int], forecast: Floats | None, known: Learned | None) -> dict[int, Interval]:
    """The intervals of a forecast by level, as wide as the stream has learned."""
    if not levels or context.intervals is None or forecast is None:
        return {}
    bounds = context.intervals.bounds(forecast, levels, known.factors if known else None)
    return dict(zip(levels, bounds, strict=True))


def _unmoved(id: str, record: Record, old: Record | None) -> SessionStatus:
    """Where the session is after a what-if: where it was; a session that is not there is at 0."""
    if old is not None:
        return status(id, old)
    return SessionStatus(id, 0, record.expires_at)


def _keep_earlier(record: Record, run: ModelRun, keep: int) -> None:
    """Keep the state before the run and earlier ones, `keep` in all. States of another model cannot be rewound to."""
    if not keep or run.rewarmed:
        return
    old = run.record
    before = old.state if old else State(run.state, 0, record.state.digest)
    record.kept = (before.position, *(old.kept if old else ()))[:keep]
    record.unstored = (before, *(old.unstored if old else ()))[:keep]


def _recent(run: ModelRun, keep: int, record: Record) -> Array | None:
    """The last `keep` inputs, and as many before the earliest state that is kept, so that a rewind leaves enough.

    Rewarming ran the earlier ones already; they are part of the run's inputs.
    """
    if not keep:
        return None
    earlier = [run.record.recent] if run.record and run.record.recent is not None and not run.rewarmed else []
    oldest = record.kept[-1] if record.kept else record.state.position
    return np.concatenate([*earlier, run.inputs])[-(keep + record.state.position - oldest) :]
