"""Counts what became of the requests of a batch."""

from collections import Counter
from collections.abc import Sequence

from handlers.engine.task import Task
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
    outcomes = Counter([(requested_action(task), task.error.code if task.error else "ok") for task in tasks])
    for (action, code), amount in outcomes.items():
        telemetry.count("requests_total", amount, action, code)
    for (tenant, outcome), amount in Counter([(task.caller.tenant, _outcome(task)) for task in tasks]).items():
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


def _outcome(task: Task) -> str:
    return "ok" if task.error is None else "refused" if task.error.status < 500 else "failed"


def _count_applied(telemetry: Telemetry, tasks: Sequence[Task]) -> None:
    """Count what requests did that were answered, and were to change a session."""
    applied = [(task.caller.tenant, task.run) for task in tasks if task.run is not None and task.transition in APPLYING]
    steps: Counter[str] = Counter()
    for tenant, run in applied:
        steps[tenant] += len(run.inputs) - run.rewarmed
    for tenant, amount in steps.items():
        telemetry.count("tenant_steps_applied_total", amount, telemetry.tenant_label(tenant))
    telemetry.count("steps_applied_total", steps.total())
    telemetry.count("values_imputed_total", sum([run.missing for _, run in applied]))
    for i, name in enumerate(SCORED):
        telemetry.count(name, sum([run.scored[i] for _, run in applied]))
    telemetry.count("steps_replayed_total", sum([task.request.steps for task in tasks if task.transition in REPLAYING]))
    created = Counter([requested_action(task) for task in tasks if task.transition in CREATING])
    for action, amount in created.items():
        telemetry.count("sessions_created_total", amount, action)
    closed = [t for t in tasks if t.transition is Transition.CLOSE or (t.request.close and t.transition not in REPLAYING)]
    telemetry.count("sessions_closed_total", len(closed))
