"""What the steps of a stream need of its memory before they run, and what the stream remembers afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.arrays import Array, Floats
from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.task import ModelRun, Task
from handlers.errors import TooLarge
from handlers.forecasting import adaptation, memory, missing, scoring
from handlers.forecasting.adaptation import Adaptation
from handlers.forecasting.intervals import Doubles, Intervals, Table
from handlers.forecasting.memory import StreamMemory, by_output
from handlers.forecasting.scoring import Judge, Scores
from handlers.sessions.record import Record


def prepare(batch: Batch, task: Task, run: ModelRun) -> None:
    """Complete a planned run: place observations in time, find the inputs known in advance, and check that what is missing can be imputed.

    Raises:
        InvalidInput: observations do not follow the stream, or cannot be imputed.
        TooLarge: observations and the gaps between them are too many steps.
    """
    request, context = task.request, batch.context
    run.missing = request.missing
    if run.record is not None:
        run.memory = memory.decode(run.record.state.forecast, len(context.signature.feedback))
    if request.times is not None:
        _place(context, task, run)
    elif run.memory.time is not None and context.timeline is not None:
        run.time = run.memory.time + len(run.inputs[run.rewarmed :]) * context.timeline.calendar.step
    own = run.inputs[run.rewarmed :]
    if context.judge is not None and request.session is not None:
        run.observed = by_output(context.signature, own[:, context.signature.fed_features]).astype(np.float32)
    if run.missing:
        max_imputed = context.settings.max_imputed
        run.missing_in_a_row = missing.check(own, run.memory, run.rewarmed > 0, max_imputed, context.signature)


def _place(context: ServiceContext, task: Task, run: ModelRun) -> None:
    """Replace the observations by input rows, and find what is known in advance of the forecast."""
    timeline, request = context.timeline, task.request
    assert timeline is not None  # the codec takes observations only where the model has a calendar
    assert request.inputs is not None
    assert request.times is not None
    rows, run.time = timeline.place(request.inputs, request.times, run.memory.time, context.settings.max_imputed)
    if len(rows) > context.settings.max_steps:
        raise TooLarge(f"observations: {len(rows)} steps with the gaps, at most {context.settings.max_steps} in one request")
    run.inputs = np.concatenate([run.inputs[: run.rewarmed], rows])
    run.missing = int(np.isnan(rows).sum())
    if request.horizon:
        run.future = timeline.future(run.time, request.horizon, request.future)


@dataclass(slots=True)
class Learned:
    """What a stream knows about its errors."""

    scores: Scores
    adaptation: Adaptation | None = None  # None where nobody has asked for intervals so far
    outputs: bytes = b""  # of a model of distributions, after the last step: [O] float32

    @property
    def factors(self) -> Table | None:
        return None if self.adaptation is None else self.adaptation.factors


def remembered(context: ServiceContext, run: ModelRun, prediction: Floats, learned: Learned | None) -> bytes:
    """Encode what the stream remembers after the run. `prediction` is what of the last one feeds back."""
    scores, known = b"", b""
    if learned is not None:
        scores, known = learned.scores.encode(), learned.outputs
    if learned is not None and learned.adaptation is not None and context.intervals is not None:
        known = learned.adaptation.encode(context.intervals)
    return StreamMemory(prediction, run.missing_in_a_row, run.time, scores, known).encode()


def learned(context: ServiceContext, task: Task, run: ModelRun, y: Floats | None) -> Learned | None:
    """Return what the stream knows about its errors after the run's observations; None without a session, or where nothing judges them.

    A prediction one step ahead is known for the first observation; for the others only where the model predicts at every step.
    """
    judge, intervals = context.judge, context.intervals
    if judge is None or run.observed is None:
        return None
    known = _known(judge, intervals, run, task.request.levels)
    before, expected = known.scores, _expected(context, run)
    for step, value in enumerate(run.observed.astype(np.float64)):
        known.scores = known.scores.observed(judge, expected, value, known.factors)
        if known.adaptation is not None and intervals is not None:
            known.adaptation = known.adaptation.observed(intervals, expected, value)
        expected = None if y is None or y.ndim == 1 else y[run.rewarmed + step].astype(np.float64)
    task.scored = known.scores.since(before)
    if intervals is None and y is not None:
        known.outputs = (y if y.ndim == 1 else y[-1]).astype("<f4").tobytes()
    return known


def _known(judge: Judge, intervals: Intervals | None, run: ModelRun, levels: Sequence[int]) -> Learned:
    """What the stream knew before the run. A session that another model re-warms begins anew."""
    memory = StreamMemory() if run.rewarmed else run.memory
    found = Learned(scoring.decode(memory.scores, judge.series))
    if intervals is not None:
        found.adaptation = adaptation.decode(memory.learned, intervals) if memory.learned else None
        if found.adaptation is None and (levels or run.memory.learned):
            found.adaptation = Adaptation.new()
    return found


def _expected(context: ServiceContext, run: ModelRun) -> Doubles | None:
    """Return the outputs `[O]` that the stream expects at its next step; None where they are not known."""
    signature, memory = context.signature, run.memory
    if run.rewarmed:
        return None
    if context.intervals is not None:
        return None if memory.prediction is None else by_output(signature, memory.prediction)
    outputs = np.frombuffer(memory.learned, "<f4") if len(memory.learned) == 4 * len(signature.outputs) else None
    return None if outputs is None else outputs.astype(np.float64)


def scores(context: ServiceContext, record: Record) -> dict[str, Any] | None:
    """Return the scores of a session for `describe`; None where nothing judges its predictions."""
    if context.judge is None:
        return None
    kept = memory.decode(record.state.forecast, len(context.signature.feedback)).scores
    return scoring.decode(kept, context.judge.series).document(context.judge)


def stream_time(context: ServiceContext, record: Record) -> int | None:
    """Return the time of a session's last step, as the model's calendar counts; None where the stream has no times."""
    return None if context.timeline is None else memory.decode(record.state.forecast, len(context.signature.feedback)).time


def recent_inputs(context: ServiceContext, record: Record) -> Array:
    """Return the recent inputs of a session that the model can rebuild, as the model takes them: `[known, F]`, or `[known]` token ids."""
    recent = record.state.recent
    assert recent is not None  # what can be rebuilt has some
    return context.rewarming.inputs(recent, stream_time(context, record))


def last_time(context: ServiceContext, record: Record) -> str | None:
    """Return the time of a session's last step; None where the stream has no times."""
    time = stream_time(context, record)
    return None if time is None or context.timeline is None else context.timeline.calendar.format(time)


def times(context: ServiceContext, time: int | None, horizon: int) -> list[str]:
    """Return the times of the forecast that follows `time`, or of the prediction where there is no horizon."""
    if time is None or context.timeline is None:
        return []
    calendar = context.timeline.calendar
    return [calendar.format(following) for following in calendar.following(time, max(horizon, 1))]
