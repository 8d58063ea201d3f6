"""What the steps of a stream need of its memory before they run, and what the stream remembers afterwards."""

import numpy as np

from handlers.arrays import Floats
from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.task import ModelRun, Task
from handlers.errors import TooLarge
from handlers.forecasting import memory, missing
from handlers.forecasting.memory import StreamMemory


def prepare(batch: Batch, task: Task) -> None:
    """Complete a planned run: place observations in time, find the inputs known in advance, and check that what is missing can be imputed.

    Raises:
        InvalidInput: observations do not follow the stream, or cannot be imputed.
        TooLarge: observations and the gaps between them are too many steps.
    """
    run, request, context = task.run, task.request, batch.context
    if run is None:
        return
    run.missing = request.missing
    if run.record is not None and (run.missing or context.timeline is not None):
        run.memory = memory.decode(run.record.state.forecast, len(context.signature.feedback))
    if request.times is not None:
        _place(context, task, run)
    elif run.memory.time is not None and context.timeline is not None:
        run.time = run.memory.time + len(run.inputs[run.rewarmed :]) * context.timeline.calendar.step
    if run.missing:
        own = run.inputs[run.rewarmed :]
        missing.check(own, run.memory, run.rewarmed > 0, context.settings.max_imputed, context.signature)
        run.missing_in_a_row = missing.trailing(missing.missing_steps(own), run.memory.missing)


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


def remembered(context: ServiceContext, run: ModelRun, y: Floats | None) -> bytes:
    """Encode what the stream remembers after the run."""
    signature = context.signature
    if y is None or not signature.feedback:
        return b""
    return StreamMemory(missing.fed_back(y, signature), run.missing_in_a_row, run.time).encode()


def times(context: ServiceContext, time: int | None, horizon: int) -> list[str]:
    """Return the times of the forecast that follows `time`, or of the prediction where there is no horizon."""
    if time is None or context.timeline is None:
        return []
    calendar = context.timeline.calendar
    return [calendar.format(following) for following in calendar.following(time, max(horizon, 1))]
