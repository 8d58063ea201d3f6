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
    counts: Counter[tuple[str, ...]] = Counter()
    for task in tasks:
        action = requested_action(task)
        counts["requests_total", action, task.error.code if task.error else "ok"] += 1
        tenant = telemetry.tenant_label(task.caller.tenant)
        counts["tenant_requests_total", tenant, _outcome(task)] += 1
        if not task.request.commit:
            continue
        if task.error is None:
            _count_applied(counts, task, action, tenant)
        elif action == Action.STEP:
            counts["steps_refused_total", task.error.code] += task.request.steps
    for (name, *labels), amount in counts.items():
        telemetry.count(name, amount, *labels)


def requested_action(task: Task) -> str:
    """Return what a request asks for, in one word; "unread" for what could not be decoded."""
    session = task.request.session
    return session.action if session else "unread" if task.request.inputs is None else "predict"


def _outcome(task: Task) -> str:
    return "ok" if task.error is None else "refused" if task.error.status < 500 else "failed"


def _count_applied(counts: Counter[tuple[str, ...]], task: Task, action: str, tenant: str) -> None:
    if task.transition in APPLYING:
        run = task.run
        steps = task.request.steps if run is None else len(run.inputs) - run.rewarmed
        counts["steps_applied_total",] += steps
        counts["tenant_steps_applied_total", tenant] += steps
        counts["values_imputed_total",] += 0 if run is None else run.missing
        for name, amount in zip(SCORED, (0, 0, 0) if run is None else run.scored, strict=True):
            counts[name,] += amount
    elif task.transition in REPLAYING:
        counts["steps_replayed_total",] += task.request.steps
    if task.transition in CREATING:
        counts["sessions_created_total", action] += 1
    if task.transition is Transition.CLOSE or (task.request.close and task.transition not in REPLAYING):
        counts["sessions_closed_total",] += 1
