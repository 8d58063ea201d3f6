"""What became of a batch's requests, in numbers: tasks in, counts out."""

from collections.abc import Sequence

from handlers.engine.task import Task
from handlers.metrics import Telemetry
from handlers.sessions.machine import Move

CREATED = (Move.CREATE, Move.BEAR)
APPLIED = (Move.CREATE, Move.APPLY, Move.REBUILD)


def tally(telemetry: Telemetry, tasks: Sequence[Task]) -> None:
    """Count each request once, when it has its reply or its error."""
    telemetry.observe("batch_rows", len(tasks))
    for task in tasks:
        telemetry.count("requests_total", 1, task.request.action, task.error.code if task.error else "ok")
        if not task.request.commit:
            continue
        if task.error is None:
            _done(telemetry, task)
        elif task.request.action == "step":
            telemetry.count("steps_refused_total", task.request.steps, task.error.code)


def _done(telemetry: Telemetry, task: Task) -> None:
    if task.move in APPLIED:
        telemetry.count("steps_applied_total", task.request.steps)
    elif task.move is Move.REPLAY:
        telemetry.count("steps_replayed_total", task.request.steps)
    if task.move in CREATED:
        telemetry.count("sessions_created_total", 1, task.request.action)
    elif task.move is Move.END:
        telemetry.count("sessions_closed_total")
