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

from handlers.engine import step_columns
from handlers.engine.batch import Batch
from handlers.engine.request import StepResults
from handlers.engine.step_columns import inputs
from handlers.engine.task import Task
from handlers.errors import TooLarge
from handlers.inference import batching
from handlers.inference.backends.base import BackendError
from handlers.inference.batching import CHUNK_STEPS
from handlers.sessions.machine import Transition

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
    """Return the tasks that are steps of the most common form, for a prediction alone, of sessions that no other task touches.

    A form is so many inputs, with times or without. What has times, or is scored, goes step by step.
    """
    usual = [task for task in tasks if task.request.is_usual_step]
    if len(usual) < FEW or not batch.context.has_usual_steps:
        return ()
    names = Counter([name for task in tasks for name in task.names])
    usual = [task for task in usual if names[task.names[0]] == 1]
    forms = [(len(inputs(task)), task.request.times is not None) for task in usual]
    [(form, count)] = Counter(forms).most_common(1) or [((0, False), 0)]
    length, is_timed = form
    if length > (1 if is_timed or batch.context.judge is not None else CHUNK_STEPS):
        return ()
    return usual if count == len(usual) else [task for task, its_form in zip(usual, forms, strict=True) if its_form == form]


def _serve(batch: Batch, tasks: Sequence[Task], deadline: float) -> None:
    context, telemetry, signature = batch.context, batch.context.telemetry, batch.context.signature
    with telemetry.timing("read"):
        steps = step_columns.read(batch, tasks)
    if not steps.tasks:
        return
    with telemetry.timing("run"):
        x = step_columns.model_inputs(context, steps)
        run = batching.run_alike(context.backend, signature, x, steps.before["values"], context.settings.max_batch, deadline)
        if run.finite is not None:
            steps, x, run = steps.of(run.finite), x[run.finite], run.of(run.finite)
        if not steps.tasks:
            return
        columns = signature.prediction_columns
        predictions = run.y if columns is None else np.take(run.y, columns, axis=-1)
    with telemetry.timing("encode"):
        records, scored = step_columns.records_after(batch, steps, x, run, predictions)
        results = StepResults(
            signature.version,
            [task.id for task in steps.tasks],
            predictions,
            records.rows["position"].tolist(),
            records.rows["generation"].tolist(),
            batch.expires_at,
            () if steps.times is None else context.memories.predicted_times(steps.times),
        )
        replies = _replies(steps.tasks, results)
        batch.sessions.put_encoded([task.names[0] for task in steps.tasks], records.encode(), batch.expires_at)
    for task, reply in zip(steps.tasks, replies, strict=True):
        task.reply, task.transition = reply, Transition.APPLY
    if scored is not None:
        for task, scores in zip(steps.tasks, scored.tolist(), strict=True):
            task.scored = scores


def _replies(tasks: Sequence[Task], results: StepResults) -> Sequence[object]:
    """Encode the results of the tasks, together for each kind of call."""
    calls = [task.call for task in tasks]
    if len(set(map(type, calls))) == 1:
        return calls[0].encode_steps(calls, results)
    return [call.encode(results.result(i)) for i, call in enumerate(calls)]
