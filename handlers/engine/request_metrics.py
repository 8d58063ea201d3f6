"""Counts what became of the requests of a batch."""

from collections import defaultdict
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
Outcome = tuple[str, str, type[CellstateError] | type[None], Transition | None]  # tenant, action, error, transition


def record_request_metrics(telemetry: Telemetry, tasks: Sequence[Task]) -> None:
    """Count each request once, when it has its reply or its error."""
    telemetry.observe("batch_rows", len(tasks))
    alike: defaultdict[Outcome, list[Task]] = defaultdict(list)
    for task in tasks:
        alike[task.caller.tenant, requested_action(task), type(task.error), task.transition].append(task)
    for (tenant, action, error, transition), group in alike.items():
        code, outcome = (error.code, "refused" if error.status < 500 else "failed") if issubclass(error, CellstateError) else ("ok", "ok")
        telemetry.count("requests_total", len(group), action, code)
        telemetry.count("tenant_requests_total", len(group), telemetry.tenant_label(tenant), outcome)
        committing = [task for task in group if task.request.commit]
        if issubclass(error, CellstateError):
            if action == Action.STEP:
                telemetry.count("steps_refused_total", sum([task.request.steps for task in committing]), code)
        elif transition is not None and committing:
            _count_done(telemetry, tenant, action, transition, committing)


def requested_action(task: Task) -> str:
    """Return what a request asks for, in one word; "unread" for what could not be decoded."""
    session = task.request.session
    return session.action if session else "unread" if task.request.inputs is None else "predict"


def _count_done(telemetry: Telemetry, tenant: str, action: str, transition: Transition, tasks: Sequence[Task]) -> None:
    """Count what requests of one tenant did that changed a session, or repeated a change."""
    if transition in APPLYING:
        _count_applied(telemetry, tenant, tasks)
    if transition in CREATING:
        telemetry.count("sessions_created_total", len(tasks), action)
    if transition in REPLAYING:
        telemetry.count("steps_replayed_total", sum([task.request.steps for task in tasks]))
    else:
        closed = tasks if transition is Transition.CLOSE else [task for task in tasks if task.request.close]
        telemetry.count("sessions_closed_total", len(closed))


def _count_applied(telemetry: Telemetry, tenant: str, tasks: Sequence[Task]) -> None:
    runs = [task.run for task in tasks if task.run is not None]  # usual steps have none
    steps = sum([task.request.steps for task in tasks if task.run is None]) + sum([len(run.inputs) - run.rewarmed for run in runs])
    telemetry.count("tenant_steps_applied_total", steps, telemetry.tenant_label(tenant))
    telemetry.count("steps_applied_total", steps)
    telemetry.count("values_imputed_total", sum([run.missing for run in runs]))
    for name, amounts in zip(SCORED, zip(*[task.scored for task in tasks], strict=True), strict=True):
        telemetry.count(name, sum(amounts))
