"""Judge a recorded history: is there an order of the requests that explains every answer?

For each partition the judge searches an order that keeps the real time of acknowledged operations and that the specification follows to
the digit. The predictions of that order are compared with the offline run.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from host.archives import find
from loadtests import history
from loadtests.history import History, Operation
from loadtests.offline import Array, OfflineModel, pool
from loadtests.oracle.lineages import Lineages, Model
from loadtests.oracle.partitions import partitions, sessions_of
from loadtests.oracle.report import Report, counted
from loadtests.oracle.search import LIMIT, Search, Verdict
from loadtests.oracle.specification import ABSENT, Specification


def judge(path: Path, store: Path, keep: int | None = None, limit: int = LIMIT, strict: bool = False) -> Report:
    """Judge the history in `path` with the archive of its model; the other arguments are those of `check`.

    Raises:
        ValueError: not a history, or one of another model.
        LookupError: the store has no archive of the model.
        OSError: a file cannot be read.
    """
    recorded = history.read(path)
    named = {archive.name: archive for archive in find(store)}
    if recorded.head["model"] not in named:
        raise LookupError(f"{store} has no archive of {recorded.head['model']!r}; it has {', '.join(named)}")
    archive = named[recorded.head["model"]].path
    model = OfflineModel(archive)
    if model.digest != recorded.head["digest"]:
        raise ValueError(f"{archive} is not the model that {path} was recorded with: {model.digest[:12]}, {recorded.head['digest'][:12]}")
    return check(recorded, model, pool(model, recorded.head["pool"]), keep, limit, strict)


def check(recorded: History, model: Model, rows: Array, keep: int | None = None, limit: int = LIMIT, strict: bool = False) -> Report:
    """Judge a history.

    Args:
        recorded: the history.
        model: the model that predictions are compared with.
        rows: the pool that the history's inputs are rows of.
        keep: the service's `keep_versions`; None where that is unknown.
        limit: how many places to visit in one partition before giving it up.
        strict: whether a non-atomic fork is a violation.
    """
    report, lineages = counted(recorded), Lineages(model, rows)
    generations = any(o.answer.generation is not None for o in recorded.operations)
    for operations in partitions(recorded.operations):
        names = sorted({name for operation in operations for name in sessions_of(operation)})
        rules = Specification(lineages, names, keep, generations)
        report.partitions += 1
        report.largest_partition = max(report.largest_partition, len(operations))
        report.sessions += len(names)
        _judge_partition(rules, operations, report, limit, strict)
        report.largest_difference = max(report.largest_difference, rules.largest)
    return report


def _judge_partition(rules: Specification, operations: Sequence[Operation], report: Report, limit: int, strict: bool) -> None:
    verdict = Search(rules, operations, limit).run()
    report.visited += verdict.visited
    if not verdict.explained and not strict and any(o.invocation.action == "fork" for o in operations):
        sentence = _sentence(verdict, rules, len(operations)) if verdict.problems else ""
        verdict = Search(rules, operations, limit, non_atomic=True).run()
        report.visited += verdict.visited
        report.non_atomic_forks += [sentence] if verdict.explained else []
    if verdict.undecided:
        place = _where(verdict, rules, rules.names[:1])
        report.undecided.append(f"{_partition(rules.names, len(operations))}: no order found in {verdict.visited:,} places; {place}")
    elif not verdict.explained:
        report.violations.append(_sentence(verdict, rules, len(operations)))
    else:
        report.violations += _wrong_when_uncut(verdict, rules)


def _wrong_when_uncut(verdict: Verdict, rules: Specification) -> Iterable[str]:
    """Compare the offline run cut as the requests were with the run in one piece; a difference means that the judge is wrong."""
    assert verdict.state is not None  # an order was found
    for name, session in zip(rules.names, verdict.state.sessions, strict=True):
        if session.phase == ABSENT or session.at.parent is None:
            continue
        apart = float(np.abs(rules.lineages.uncut(session.at) - session.at.y).max()) / session.at.scale
        if not apart <= rules.lineages.model.tolerance:
            yield f"session {name}: the offline run in one piece and the one cut as the requests were differ by {apart:.1e}"


def _partition(names: Sequence[str], operations: int) -> str:
    whose = f"session {names[0]}" if len(names) == 1 else f"the {len(names)} sessions related to {names[0]}"
    return f"the {operations} operations of {whose}"


def _sentence(verdict: Verdict, rules: Specification, operations: int) -> str:
    """Describe one violation: the session, the operation that contradicts, what would be right, and what came before."""
    (first, why), *others = verdict.problems
    more = f"; nor do {', '.join(str(o.number) for o, _ in others)} fit there" if others else ""
    return (
        f"session {first.invocation.session}: no order of {_partition(rules.names, operations)} explains every answer: "
        f"{first} contradicts all that can have come before it: {why}; {_where(verdict, rules, sessions_of(first))}{more}"
    )


def _where(verdict: Verdict, rules: Specification, names: Sequence[str]) -> str:
    """Say how long the longest order is, and what it did last with these sessions."""
    assert verdict.state is not None
    before = [o for o in verdict.order if set(sessions_of(o)) & set(names)][-2:]
    after = f", after {' and '.join(map(str, before))}" if before else ""
    places = ", ".join(rules.describe(verdict.state, name) for name in names)
    return f"the longest order has {len(verdict.order)} operations, and there {places}{after}"
