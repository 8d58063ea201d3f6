"""Counts what became of the requests of a batch."""

from collections.abc import Sequence

from handlers.engine.task import Task
from handlers.metrics import Telemetry
from handlers.sessions.machine import Transition
from handlers.sessions.reference import Action

CREATING = (Transition.CREATE, Transition.CREATE_FROM_STATE)
APPLYING = (Transition.CREATE, Transition.APPLY, Transition.REWARM)
REPLAYING = (Transition.REPLAY, Transition.CONFIRM)


def record_request_metrics(telemetry: Telemetry, tasks: Sequence[Task]) -> None:
    """Count each request once, when it has its reply or its error."""
    telemetry.observe("batch_rows", len(tasks))
    for task in tasks:
        action = requested_action(task)
        telemetry.count("requests_total", 1, action, task.error.code if task.error else "ok")
        if not task.request.commit:
            continue
        if task.error is None:
            _count_applied(telemetry, task, action)
        elif action == Action.STEP:
            telemetry.count("steps_refused_total", task.request.steps, task.error.code)


def requested_action(task: Task) -> str:
    """Return what a request asks for, in one word; "unread" for what could not be decoded."""
    session = task.request.session
    return session.action if session else "unread" if task.request.inputs is None else "predict"


def _count_applied(telemetry: Telemetry, task: Task, action: str) -> None:
    if task.transition in APPLYING:
        telemetry.count("steps_applied_total", task.request.steps)
    elif task.transition in REPLAYING:
        telemetry.count("steps_replayed_total", task.request.steps)
    if task.transition in CREATING:
        telemetry.count("sessions_created_total", 1, action)
    if task.transition is Transition.CLOSE or (task.request.close and task.transition not in REPLAYING):
        telemetry.count("sessions_closed_total")
