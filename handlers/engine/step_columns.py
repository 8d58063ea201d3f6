"""The usual steps of a batch as columns: the records before them, the inputs of the model, and the records after them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from handlers.arrays import Array, Floats
from handlers.engine.batch import Batch
from handlers.engine.context import ServiceContext
from handlers.engine.request import PREDICTION
from handlers.engine.task import Task
from handlers.forecasting.memory_columns import Times
from handlers.inference.batching import AlikeRun
from handlers.sessions.columns import NewRecords, read_alike
from handlers.sessions.machine import next_steps
from handlers.sessions.record import Record, pack_arrays
from handlers.sessions.state import State


class Steps(Struct):
    """B steps of one form: of T inputs, with their times or without."""

    tasks: Sequence[Task]
    before: Array  # [B], the records before the steps: rows of `columns.read_alike`
    times: Times | None = None  # [B], of the last inputs; None where the streams do not learn from what they observe

    def of(self, mask: npt.NDArray[np.bool_]) -> "Steps":
        """Return some of the steps."""
        if mask.all():
            return self
        tasks = [task for task, is_chosen in zip(self.tasks, mask.tolist(), strict=True) if is_chosen]
        return Steps(tasks, self.before[mask], None if self.times is None else self.times[mask])


def inputs(task: Task) -> Array:
    """Return the inputs of a step, `[T, F]` or `[T]`."""
    assert task.request.inputs is not None  # a step has some
    return task.request.inputs


def read(batch: Batch, tasks: Sequence[Task]) -> Steps:
    """Return which of the tasks, steps of one form, are the next ones of live sessions with records that are alike."""
    context, memories = batch.context, batch.context.memories
    chosen, before = read_alike(batch.sessions.stored([task.names[0] for task in tasks]))
    if not chosen:
        return Steps((), before)
    tasks = [tasks[i] for i in chosen] if len(chosen) < len(tasks) else tasks
    is_next = next_steps(context.rules, before, [task.ref for task in tasks], tasks[0].request.steps, batch.now)
    is_next &= _can_keep_inputs(context, tasks, before)
    if not memories.learns:
        return Steps(tasks, before).of(is_next)
    rows = memories.rows(before)
    if rows is None:
        return Steps((), before)
    readings = [task.request.times for task in tasks if task.request.times is not None]
    times, follows = memories.next_times(rows, np.concatenate(readings) if readings else None, tasks[0].request.steps)
    return Steps(tasks, before, times).of(is_next & follows & memories.are_alike(rows))


def model_inputs(context: ServiceContext, steps: Steps) -> Array:
    """Return what the model is given, `[B, T, …]`: of observations also what follows from their times."""
    x = np.concatenate([inputs(task) for task in steps.tasks])
    x = x.reshape(len(steps.tasks), -1, *x.shape[1:])
    timeline = context.timeline
    if timeline is not None and timeline.derived and steps.times is not None and steps.tasks[0].request.times is not None:
        x[:, -1, timeline.derived] = context.memories.features(steps.times)
    return x


def records_after(
    batch: Batch, steps: Steps, x: Array, run: AlikeRun, predictions: Floats
) -> tuple[NewRecords, npt.NDArray[np.int64] | None]:
    """Return the sessions' records after the steps, and what was scored of earlier predictions, as `MemoryColumns.advance` does."""
    context, signature, before = batch.context, batch.context.signature, steps.before
    memories, rewarming, keeps = context.memories, context.rewarming, _keeps_inputs(context, steps.tasks)
    recent = rewarming.begun(begins=False) if keeps else None
    state = State(signature.initial_state, 0, signature.digest, memories.example, recent)
    answer = pack_arrays({PREDICTION: np.zeros(predictions.shape[1:], np.float32)})
    records = NewRecords(Record(state, 0.0, batch.expires_at, 0, answer=answer, version=signature.version), len(steps.tasks))
    rows = records.rows
    rows["created_at"], rows["last_step"], rows["position"] = before["created_at"], before["position"], before["position"] + x.shape[1]
    rows["generation"] = rows["last_generation"] = before["generation"]
    rows["last_hash"] = np.frombuffer(b"".join([task.request_hash for task in steps.tasks]), "V16")
    rows["values"] = run.states
    records.floats("answer", predictions.shape[1:])[...] = predictions
    if keeps:
        _keep_inputs(rows, before, x[:, :, rewarming.kept] if rewarming.needs_times else x)
    if (after := memories.rows(rows)) is None:
        return records, None
    known = None if steps.times is None else memories.rows(before)
    return records, memories.advance(known, after, steps.times, x[:, -1], run.y if run.y.ndim == 2 else run.y[:, -1])


def _keeps_inputs(context: ServiceContext, tasks: Sequence[Task]) -> bool:
    return context.rewarming.steps > 0 and (tasks[0].request.times is not None or not context.rewarming.needs_times)


def _can_keep_inputs(context: ServiceContext, tasks: Sequence[Task], before: Array) -> Array:
    """Return in which records the recent inputs are those that this model keeps of such steps, `[B]` bool."""
    keeps, has_inputs, rewarming = _keeps_inputs(context, tasks), "recent" in (before.dtype.names or ()), context.rewarming
    if not keeps or not has_inputs or before["recent"].shape[1] != rewarming.steps:
        return np.full(len(before), not keeps and not has_inputs)
    return np.asarray(before["layout"] == np.void(rewarming.layout))


def _keep_inputs(rows: Array, before: Array, x: Array) -> None:
    """Set the recent inputs in the new records: those before, then the inputs `x`, `[B, T, …]`."""
    recent, room, length = rows["recent"], rows["recent"].shape[1], x.shape[1]
    recent[:, : max(room - length, 0)] = before["recent"][:, length:]
    recent[:, -length:] = x[:, -room:]
    total = before["known"] + length
    rows["known"], rows["begins"] = np.minimum(total, room), before["begins"] & (total <= room)
