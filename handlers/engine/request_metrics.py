"""Counts what became of the requests of a batch."""

from collections import Counter
from collections.abc import Sequence

from handlers.engine.task import Task
from handlers.errors import CellstateError
from handlers.metrics import Telemetry
from handlers.sessions.machine import Transition
from handlers.sessions.reference import Action

CREATING = (Transition.CREATE, Transition.CREATE_FROM_STATE)
APPLYING = (Transition.CREATE, Transition.APPLY, Transition.REWARM)
SCORED = ("predictions_scored_total", "predictions_covered_total", "drifts_total")
REPLAYING = (Transition.REPLAY, Transition.CONFIRM)


def record_request_metrics(telemetry: Telemetry, tasks: Sequence[Task]) -> None:
    """Count each request once, when it has its reply or its error."""
    telemetry.observe("batch_rows", len(tasks))
    actions = list(map(requested_action, tasks))
    found = Counter([(task.caller.tenant, action, type(task.error)) for task, action in zip(tasks, actions, strict=True)])
    for (tenant, action, error), amount in found.items():
        code, outcome = (error.code, "refused" if error.status < 500 else "failed") if issubclass(error, CellstateError) else ("ok", "ok")
        telemetry.count("requests_total", amount, action, code)
        telemetry.count("tenant_requests_total", amount, telemetry.tenant_label(tenant), outcome)
    committing = [task for task in tasks if task.request.commit]
    for task in committing:
        if task.error is not None and requested_action(task) == Action.STEP:
            telemetry.count("steps_refused_total", task.request.steps, task.error.code)
    _count_applied(telemetry, [task for task in committing if task.error is None])


def requested_action(task: Task) -> str:
    """Return what a request asks for, in one word; "unread" for what could not be decoded."""
    session = task.request.session
    return session.action if session else "unread" if task.request.inputs is None else "predict"


def _count_applied(telemetry: Telemetry, tasks: Sequence[Task]) -> None:
    """Count what requests did that were answered, and were to change a session."""
    applying: dict[str, list[Task]] = {}  # by tenant
    for task in tasks:
        if task.transition in APPLYING:
            applying.setdefault(task.caller.tenant, []).append(task)
    for tenant, applied in applying.items():
        runs = [task.run for task in applied if task.run is not None]  # usual steps have none
        usual = [task.request.steps for task in applied if task.run is None]
        steps = sum(usual) + sum([len(run.inputs) - run.rewarmed for run in runs])
        telemetry.count("tenant_steps_applied_total", steps, telemetry.tenant_label(tenant))
        telemetry.count("steps_applied_total", steps)
        telemetry.count("values_imputed_total", sum([run.missing for run in runs]))
        for i, name in enumerate(SCORED):
            telemetry.count(name, sum([run.scored[i] for run in runs]))
    replayed = [task.request.steps for task in tasks if task.transition in REPLAYING]
    created = [requested_action(task) for task in tasks if task.transition in CREATING]
    closed = [t for t in tasks if t.request.close or t.transition is Transition.CLOSE]
    closed = [t for t in closed if t.transition not in REPLAYING]
    telemetry.count("steps_replayed_total", sum(replayed))
    telemetry.count("sessions_closed_total", len(closed))
    for action in created:
        telemetry.count("sessions_created_total", 1, action)
