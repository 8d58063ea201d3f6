"""Serves the usual steps of a batch together, as columns: arrays in, arrays out.

A usual step is the next one of a live session, and asks for its prediction alone. The records of such sessions are read as one array, one
comparison of columns is the table's decision, the states go from the records into the model and from the model into the new records, and
replies and records are cut out of arrays. Nothing is refused here: a step that is not as usual in any of this is left to the attempt, which
serves it by itself and says what is wrong with it.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from handlers.arrays import Array, Floats
from handlers.engine.batch import Batch
from handlers.engine.request import PREDICTION, StepResults
from handlers.engine.task import Task
from handlers.errors import TooLarge
from handlers.forecasting.memory import StreamMemory
from handlers.inference import batching
from handlers.inference.backends.base import BackendError
from handlers.inference.batching import CHUNK_STEPS
from handlers.sessions.columns import NewRecords, read_alike
from handlers.sessions.machine import Transition, next_steps
from handlers.sessions.record import Record, pack_arrays
from handlers.sessions.state import State

FEW = 8  # steps; as many are served faster one by one
log = logging.getLogger("cellstate")


def serve(batch: Batch, tasks: Sequence[Task], deadline: float) -> Sequence[Task]:
    """Serve the usual steps among the tasks, and return the tasks that are left. `deadline` is monotonic seconds."""
    usual = _usual(batch, tasks)
    if len(usual) < FEW:
        return tasks
    try:
        _serve(batch, usual, deadline)
    except (BackendError, TooLarge):
        pass  # which of the steps is to blame is found where each is served by itself
    except Exception:
        log.exception("internal_error")
    return [task for task in tasks if task.reply is None]


def _usual(batch: Batch, tasks: Sequence[Task]) -> Sequence[Task]:
    """Return the tasks that are steps of equal length, for a prediction alone, of sessions that no other task touches."""
    usual = [task for task in tasks if task.request.is_usual_step]
    if len(usual) < FEW or not batch.context.has_usual_steps:
        return ()
    names = Counter([name for task in tasks for name in task.names])
    usual = [task for task in usual if names[task.names[0]] == 1]
    length = len(_inputs(usual[0])) if usual else 0
    return [task for task in usual if len(_inputs(task)) == length] if length <= CHUNK_STEPS else ()


def _serve(batch: Batch, tasks: Sequence[Task], deadline: float) -> None:
    context, telemetry = batch.context, batch.context.telemetry
    with telemetry.timing("read"):
        tasks, before = _read(batch, tasks)
    if not tasks:
        return
    with telemetry.timing("run"):
        x = np.concatenate([_inputs(task) for task in tasks])
        x = x.reshape(len(tasks), -1, *x.shape[1:])
        run = batching.run_alike(context.backend, context.signature, x, before["values"], context.settings.max_batch, deadline)
        if not run.finite.all():
            tasks, before, x, run = _chosen(tasks, run.finite), before[run.finite], x[run.finite], run.of(run.finite)
        if not tasks:
            return
        columns = context.signature.prediction_columns
        predictions = run.y if columns is None else np.take(run.y, columns, axis=-1)
    with telemetry.timing("encode"):
        records = _records(batch, tasks, before, x, run, predictions)
        results = StepResults(
            context.signature.version,
            [task.id for task in tasks],
            predictions,
            records.rows["position"].tolist(),
            records.rows["generation"].tolist(),
            batch.expires_at,
        )
        replies = _replies(tasks, results)
        batch.sessions.put_encoded([task.names[0] for task in tasks], records.encode(), batch.expires_at)
    for task, reply in zip(tasks, replies, strict=True):
        task.reply, task.transition = reply, Transition.APPLY


def _inputs(task: Task) -> Array:
    assert task.request.inputs is not None  # a step has some
    return task.request.inputs


def _read(batch: Batch, tasks: Sequence[Task]) -> tuple[Sequence[Task], Array]:
    """Return the tasks that are the next steps of live sessions with records that are alike, and those records."""
    chosen, records = read_alike(batch.sessions.stored([task.names[0] for task in tasks]))
    if not chosen or not _has_own_inputs(batch, records):
        return (), records
    tasks = [tasks[i] for i in chosen] if len(chosen) < len(tasks) else tasks
    is_next = next_steps(batch.context.rules, records, [task.ref for task in tasks], tasks[0].request.steps, batch.now)
    return (tasks, records) if is_next.all() else (_chosen(tasks, is_next), records[is_next])


def _has_own_inputs(batch: Batch, records: Array) -> bool:
    """Whether the recent inputs in the records are those that this model keeps."""
    rewarming, has_inputs = batch.context.rewarming, "recent" in (records.dtype.names or ())
    if not rewarming.steps or not has_inputs:
        return rewarming.steps == 0 and not has_inputs
    return bool(len(records["recent"][0]) == rewarming.steps and (records["layout"] == np.void(rewarming.layout)).all())


def _chosen(tasks: Sequence[Task], mask: npt.NDArray[np.bool_]) -> Sequence[Task]:
    return [task for task, is_chosen in zip(tasks, mask.tolist(), strict=True) if is_chosen]


def _records(batch: Batch, tasks: Sequence[Task], before: Array, x: Array, run: batching.AlikeRun, predictions: Floats) -> NewRecords:
    """Return the sessions' records after the steps."""
    signature, shape, length = batch.context.signature, predictions.shape[1:], x.shape[1]
    outputs = [output for output, _ in signature.feedback_columns]
    memory = StreamMemory(np.zeros(len(outputs), np.float32)).encode() if outputs else b""
    recent = batch.context.rewarming.begun(begins=False)
    state = State(signature.initial_state, 0, signature.digest, memory, recent)
    answer = pack_arrays({PREDICTION: np.zeros(shape, np.float32)})
    records = NewRecords(Record(state, 0.0, batch.expires_at, 0, answer=answer, version=signature.version), len(tasks))
    rows = records.rows
    rows["created_at"], rows["last_step"], rows["position"] = before["created_at"], before["position"], before["position"] + length
    rows["generation"] = rows["last_generation"] = before["generation"]
    rows["last_hash"] = np.frombuffer(b"".join([task.request_hash for task in tasks]), "V16")
    rows["values"] = run.states
    records.floats("answer", shape)[...] = predictions
    if outputs:
        last = run.y if run.y.ndim == 2 else run.y[:, -1]
        records.floats("forecast", (len(outputs),))[...] = last[:, outputs]
    if recent is not None:
        _keep_inputs(rows, before, x)
    return records


def _keep_inputs(rows: Array, before: Array, x: Array) -> None:
    """Set the recent inputs in the new records: those before, then the inputs `x`, `[B, T, …]`."""
    recent, room, length = rows["recent"], rows["recent"].shape[1], x.shape[1]
    recent[:, : max(room - length, 0)] = before["recent"][:, length:]
    recent[:, -length:] = x[:, -room:]
    total = before["known"] + length
    rows["known"], rows["begins"] = np.minimum(total, room), before["begins"] & (total <= room)


def _replies(tasks: Sequence[Task], results: StepResults) -> Sequence[object]:
    """Encode the results of the tasks, together for each kind of call."""
    calls = [task.call for task in tasks]
    if len(set(map(type, calls))) == 1:
        return calls[0].encode_steps(calls, results)
    return [call.encode(results.result(i)) for i, call in enumerate(calls)]
