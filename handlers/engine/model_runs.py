"""Runs the model for the tasks of one wave, and turns what it gives into replies and records."""

import logging
import math
from collections.abc import Sequence

import numpy as np

from handlers.arrays import Floats, Vector
from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.request import ALL_OUTPUTS, IMPUTED, LABEL, OPAQUE, PROBABILITIES, SAMPLES, Request, Result, interval_arrays
from handlers.engine.streams import Learned, learned, remembered, times
from handlers.engine.task import ModelRun, Task
from handlers.errors import InternalError, InvalidInput, NonFiniteResult, Overloaded
from handlers.forecasting import missing
from handlers.forecasting.intervals import Interval
from handlers.forecasting.rollout import Rollout, RolloutRow, rollout
from handlers.forecasting.sampling import sample_intervals, seed
from handlers.inference import batching
from handlers.inference.backends.base import BackendError
from handlers.inference.batching import DeadlineExceeded
from handlers.sessions.machine import Phase
from handlers.sessions.recent import Recent
from handlers.sessions.record import Record, pack_arrays
from handlers.sessions.state import MAX_POSITION, State
from handlers.sessions.status import SessionStatus, status
from handlers.signature import Signature

log = logging.getLogger("cellstate")


class FinishedRuns:
    """What the model gave for the tasks of one wave. `complete` raises nothing of one task for another."""

    def __init__(self, batch: Batch, tasks: Sequence[Task], deadline: float = math.inf) -> None:
        context, runs = batch.context, [task.run for task in tasks if task.run is not None]
        self._batch = batch
        states = [run.state for run in runs]
        want_output, max_batch = ["output" in task.request.returns for task in tasks], context.settings.max_batch
        if sum([run.missing for run in runs]):
            rows = [missing.ObservedRow(run.inputs, run.memory) for run in runs]
            self._results = missing.run(context.backend, context.signature, rows, states, want_output, max_batch, deadline)
            for run, row in zip(runs, rows, strict=True):
                run.inputs = row.inputs  # as they ran: what a session keeps of them has no holes
        else:
            inputs = [run.inputs for run in runs]
            self._results = batching.run(context.backend, context.signature, inputs, states, want_output, max_batch, deadline)
        self._fed_back = _fed_back(self._results.y, context.signature)
        self._rollouts = self._roll_out(tasks, deadline)
        errors, finite = self._results.errors, self._results.finite
        self._unusual = [error is not None or not finite[i] or i in self._rollouts for i, error in enumerate(errors)]

    def _roll_out(self, tasks: Sequence[Task], deadline: float) -> dict[int, Rollout | BackendError]:
        """Rollouts by row, of the rows that asked for a forecast."""
        wanted = [i for i, task in enumerate(tasks) if task.request.horizon and self._results.errors[i] is None]
        if not wanted:
            return {}
        rows = []
        for i in wanted:
            y, request, run = self._results.y[i], tasks[i].request, tasks[i].run
            assert y is not None  # a row without an error has a y
            assert run is not None
            future = request.future if run.future is None else run.future
            last = y if y.ndim == 1 else y[-1]
            seeded = seed(tasks[i].id, run.position, tasks[i].request_hash or request.request_hash()) if request.paths else 0
            rows.append(RolloutRow(last, self._results.states[i], request.horizon, future, request.paths, seeded))
        context = self._batch.context
        rollouts = rollout(context.backend, context.signature, rows, context.settings.max_batch, deadline)
        return dict(zip(wanted, rollouts, strict=True))

    def complete(self, i: int, task: Task) -> None:
        """Check the result of row i, make the reply, and put the session's new record into the unit of work.

        Raises:
            CellstateError: the result cannot be served; nothing is changed.
        """
        results, run, request, context = self._results, task.run, task.request, self._batch.context
        assert run is not None  # only tasks with a run come here
        rollout, y, signature = self._rollout(i, request) if self._unusual[i] else None, results.y[i], context.signature
        position = run.position + len(run.inputs) - run.rewarmed
        if position > MAX_POSITION:
            raise InvalidInput(f"session, state: {position} would be beyond the last position, {MAX_POSITION}; start another stream")
        state = State(results.states[i], position, signature.digest)
        arrays = _arrays(task, run, y, results.output[i], rollout, state.values, signature)
        at = () if run.time is None else times(context, run.time, request.horizon)
        known = None if run.observed is None else learned(context, task, run, y)
        intervals = _intervals(context, request.levels, rollout, known) if request.levels else {}
        if request.session is None:
            held = state if OPAQUE in request.returns else None
            task.reply = task.call.encode(Result(signature.version, arrays, held, None, at, run.missing, intervals))
            return
        if known is not None and known.adaptation is not None and intervals and rollout is not None:
            assert context.intervals is not None  # it gave the intervals
            known.adaptation = known.adaptation.forecast(context.intervals, rollout.forecast)
        if (prediction := self._fed_back[i]) is not None:
            state.forecast = remembered(context, run, prediction, known)
        self._advance(task, run, state, arrays, at, intervals)

    def _rollout(self, i: int, request: Request) -> Rollout | None:
        """Return the rollout of row i, if it asked for a forecast.

        Raises:
            CellstateError: the model failed on the row, or gave what is no number.
        """
        rollout = self._rollouts.get(i)
        error = rollout if isinstance(rollout, BackendError) else self._results.errors[i]
        if error is not None:
            self._raise_failed(error)
        assert not isinstance(rollout, BackendError)
        if not self._results.finite[i] or (rollout is not None and not rollout.is_finite):
            sampled = ", or its distribution has parameters out of range" if request.paths else ""
            raise NonFiniteResult(
                f"inputs: the model's result for them is not finite{sampled}; nothing was applied: send inputs in its range"
            )
        return rollout

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
        batch, old, request, id = self._batch, run.record, task.request, task.id
        opaque, settings = OPAQUE in request.returns, batch.context.settings
        version, imputed, recorded = batch.context.signature.version, run.missing, arrays
        if opaque:
            recorded = recorded | {OPAQUE: state.values}
        if intervals:
            recorded = recorded | interval_arrays(intervals)
        if imputed:
            recorded = recorded | {IMPUTED: np.array(imputed, np.float32)}
        state.recent = _recent(batch.context, task, run)
        generation = old.generation if old else run.generation
        record = Record(
            state,
            old.created_at if old else batch.now,
            batch.expires_at,
            run.position,
            task.request_hash,
            generation,
            pack_arrays(recorded),
            version,
            generation=generation,
        )
        if settings.keep_versions and not run.rewarmed:
            _keep_earlier(record, run, settings.keep_versions, batch.context.rewarming.begun(request.state is None))
        if request.close:
            record = record.tombstone(batch.latest)
        after = status(id, record) if request.commit else _unmoved(batch, task, record)
        if run.rewarmed:
            assert old is not None  # its inputs were run again
            assert old.state.recent is not None
            after.rewarmed, after.rebuilt = True, batch.context.rewarming.closeness(old.state.recent)
        task.reply = task.call.encode(Result(version, arrays, state if opaque else None, after, at, imputed, intervals))
        if request.commit:
            batch.sessions.put(task.names[0], record)


def _fed_back(y: Sequence[Floats | None], signature: Signature) -> Sequence[Floats | None]:
    """Return what of each row's last prediction feeds back, `[P]`; None of a row that has none, and of a model without feedback."""
    last = [row if row.ndim == 1 else row[-1] for row in y if row is not None]
    if not signature.feedback or not last:
        return [None] * len(y)
    found = iter(np.concatenate(last).reshape(len(last), -1)[:, signature.fed_outputs])
    return [None if row is None else next(found) for row in y]


def _arrays(
    task: Task, run: ModelRun, y: Floats | None, output: Floats | None, rollout: Rollout | None, state: Vector, signature: Signature
) -> dict[str, Floats]:
    """The arrays that were asked for, by name. Steps that ran only to rebuild the state are left out."""
    arrays, returns = {}, task.request.returns
    if y is not None and y.ndim == 2:
        y = y[run.rewarmed :]
    if "prediction" in returns and y is not None:
        arrays["prediction"] = _predictions(y, signature)
    if LABEL in returns and y is not None:
        arrays[LABEL] = y.argmax(axis=-1).astype(np.float32)
    if PROBABILITIES in returns and y is not None:
        arrays[PROBABILITIES] = y if signature.has_probabilities else _softmax(y)
    if ALL_OUTPUTS in returns and y is not None:
        arrays[ALL_OUTPUTS] = y
    if rollout is not None:
        arrays["forecast"] = _predictions(rollout.forecast, signature)
    if rollout is not None and SAMPLES in returns:
        arrays[SAMPLES] = rollout.samples
    if "output" in returns and output is not None:
        arrays["output"] = output[run.rewarmed :]
    if returns != ("prediction",) and (wanted := [name for name in signature.state_outputs if name in returns]):
        tensors = dict(zip(signature.state_outputs, batching.split(state[None], signature), strict=True))
        arrays |= {name: tensors[name][:, 0] for name in wanted}  # [L*D, size]
    return arrays


def _softmax(y: Floats) -> Floats:
    """Turn logits, or logarithms of probabilities, `[…, O]` into probabilities."""
    powers = np.exp(y - y.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _predictions(y: Floats, signature: Signature) -> Floats:
    """The outputs `[…, O]` that are predictions: all, or of a model of distributions their means or medians."""
    columns = signature.prediction_columns
    return y if columns is None else np.take(y, columns, axis=-1)


def _intervals(context: ServiceContext, levels: Sequence[int], rollout: Rollout | None, known: Learned | None) -> dict[int, Interval]:
    """The intervals of a forecast by level: from its sampled paths, or as wide as the stream has learned."""
    if not levels or rollout is None:
        return {}
    if context.signature.distribution:
        return dict(zip(levels, sample_intervals(rollout.samples, levels), strict=True))
    assert context.intervals is not None  # the codec takes levels only where the model has intervals
    bounds = context.intervals.bounds(rollout.forecast, levels, known.factors if known else None)
    return dict(zip(levels, bounds, strict=True))


def _unmoved(batch: Batch, task: Task, record: Record) -> SessionStatus:
    """Where the session is after a what-if: where it was, also where it was to begin anew; one that is not there, or expired, is at 0."""
    there = batch.sessions[task.names[0]].record
    if there is None or batch.context.rules.phase(there, batch.now) in (Phase.ABSENT, Phase.EXPIRED):
        return SessionStatus(task.id, 0, record.expires_at)
    return status(task.id, there)


def _keep_earlier(record: Record, run: ModelRun, keep: int, begun: Recent | None) -> None:
    """Keep the state before the run and earlier ones, `keep` in all. After a rewarming they are of another model, and are not kept.

    `begun` are the recent inputs of a stream at its start.
    """
    old = run.record
    before = old.state if old else State(run.state, 0, record.state.digest, recent=begun)
    record.kept = (before.position, *(old.kept if old else ()))[:keep]
    record.unstored = (before, *(old.unstored if old else ()))[:keep]


def _recent(context: ServiceContext, task: Task, run: ModelRun) -> Recent | None:
    """Return the stream's recent inputs after the run. Those that were run again to rebuild the state are part of the run's inputs."""
    rewarming, old, is_timed = context.rewarming, run.record, task.request.times is not None
    if old is None:
        return rewarming.after(rewarming.begun(task.request.state is None), run.inputs, is_timed)
    before = old.state.recent
    if before is None or not run.rewarmed:
        return rewarming.after(before, run.inputs, is_timed)
    return rewarming.again(before, run.inputs, is_timed)
