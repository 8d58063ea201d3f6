"""`python -m loadtests.oracle HISTORY --store model_store`: whether some order of what was asked explains every answer.

Sessions that a fork or an exported state relates are one family, and are judged together. For each family an order is searched that keeps
the real time of acknowledged operations and that the specification follows to the digit; its predictions are compared with the offline run.
It knows nothing of the service but what docs/sessions.md promises. Exit code: 0 explained, 1 a violation, 2 no usable history, 3 undecided.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from host.archives import find
from loadtests import history
from loadtests.history import History, Operation
from loadtests.load.expected import Array
from loadtests.oracle.lineages import Lineages, Model, OfflineModel, pool
from loadtests.oracle.search import LIMIT, Search, Verdict
from loadtests.oracle.specification import ABSENT_PHASE, Specification

BROKEN = {"session_unreadable": "a stored record is damaged", "internal_error": "the service failed on a sound request"}


@dataclass
class Report:
    """What was found in one history."""

    operations: int = 0
    sessions: int = 0
    families: int = 0
    largest_family: int = 0
    unknown: int = 0
    places: int = 0  # looked at by the searches
    largest_difference: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)  # families that are explained only by a fork that is not one moment

    @property
    def code(self) -> int:
        return 1 if self.violations else 3 if self.undecided else 0


def check(recorded: History, model: Model, rows: Array, keep: int | None = None, limit: int = LIMIT, strict: bool = False) -> Report:
    """Judge a history. `rows` is the pool that its inputs name; `keep` is the service's keep_versions, None when that is not known.
    `strict`: a fork is one moment, too."""
    report, lineages = _counted(recorded), Lineages(model, rows)
    for family in families(recorded.operations):
        report.families += 1
        report.largest_family = max(report.largest_family, len(family))
        names = sorted({name for operation in family for name in _touched(operation)})
        report.sessions += len(names)
        rules = Specification(lineages, names, keep)
        verdict = Search(rules, family, limit).run()
        report.places += verdict.looked_at
        if not verdict.explained and not strict and any(o.ask.action == "fork" for o in family):
            sentence = _sentence(verdict, rules, len(family)) if verdict.problems else ""
            verdict = Search(rules, family, limit, torn=True).run()
            report.places += verdict.looked_at
            report.torn += [sentence] if verdict.explained else []
        report.largest_difference = max(report.largest_difference, rules.largest)
        if verdict.undecided:
            report.undecided.append(
                f"{_family(names, len(family))}: no order found in {verdict.looked_at:,} places; {_where(verdict, rules, names[:1])}"
            )
        elif not verdict.explained:
            report.violations.append(_sentence(verdict, rules, len(family)))
        else:
            report.violations += _cut_wrong(verdict, rules)
    return report


def families(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Operations by family: of sessions that forks, or exported states, relate."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for operation in operations:
        first, *others = [*_touched(operation), *_states(operation)]
        for other in others:
            parent[root(other)] = root(first)
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(root(operation.ask.session), []).append(operation)
    return list(found.values())


def _touched(operation: Operation) -> list[str]:
    return [operation.ask.session, *([operation.ask.to] if operation.ask.to else [])]


def _states(operation: Operation) -> list[str]:
    """Names no session can have, for the state strings that went in or came out."""
    return [f"state {state}" for state in (operation.ask.state, operation.answer.state) if state]


def _counted(recorded: History) -> Report:
    report = Report(len(recorded.operations), notes=recorded.notes)
    for operation in recorded.operations:
        ask, answer = operation.ask, operation.answer
        report.kinds[_kind(operation)] += 1
        report.unknown += operation.unknown
        report.answers[("replayed" if answer.replayed else "200") if answer.status == 200 else answer.code or "none of the service's"] += 1
        if answer.code in BROKEN:
            report.violations.append(f"session {ask.session}: {operation}: {BROKEN[answer.code]}: {answer.said}")
    return report


def _kind(operation: Operation) -> str:
    ask = operation.ask
    if ask.action != "step":
        return ask.action
    return "what-if" if not ask.commit else "step without number" if ask.step is None else "step"


def _cut_wrong(verdict: Verdict, rules: Specification) -> Iterable[str]:
    """The lineage of each session at the end, all in one go, against the same cut as the requests were: else the judge is wrong."""
    assert verdict.world is not None  # an order was found
    for name, session in zip(rules.names, verdict.world.sessions, strict=True):
        if session.phase == ABSENT_PHASE or session.at.parent is None:
            continue
        apart = float(np.abs(rules.lineages.whole(session.at) - session.at.y).max()) / session.at.scale
        if not apart <= rules.lineages.model.tolerance:
            yield f"session {name}: the offline run in one go and the one cut as the requests were differ by {apart:.1e}"


def _family(names: Sequence[str], operations: int) -> str:
    whose = f"session {names[0]}" if len(names) == 1 else f"the {len(names)} sessions related to {names[0]}"
    return f"the {operations} operations of {whose}"


def _sentence(verdict: Verdict, rules: Specification, operations: int) -> str:
    """One violation, readable: whose, what contradicts what, and what had come before."""
    (first, why), *others = verdict.problems
    more = f"; nor do {', '.join(str(o.number) for o, _ in others)} fit there" if others else ""
    return (
        f"session {first.ask.session}: no order of {_family(rules.names, operations)} explains every answer: "
        f"{first} contradicts all that can have come before it: {why}; {_where(verdict, rules, _touched(first))}{more}"
    )


def _where(verdict: Verdict, rules: Specification, names: Sequence[str]) -> str:
    """How far the longest order comes, and what it did last with these sessions."""
    assert verdict.world is not None
    before = [o for o in verdict.order if set(_touched(o)) & set(names)][-2:]
    after = f", after {' and '.join(map(str, before))}" if before else ""
    places = ", ".join(rules.describe(verdict.world, name) for name in names)
    return f"the longest order has {len(verdict.order)} operations, and there {places}{after}"


def printed(report: Report) -> str:
    """The report in lines."""
    counts = [", ".join(f"{name} {n:,}" for name, n in counter.most_common()) for counter in (report.kinds, report.answers)]
    lines = [
        f"oracle: {report.operations:,} operations on {report.sessions:,} sessions in {report.families:,} families "
        f"(largest {report.largest_family:,}); {report.unknown:,} of unknown outcome; {len(report.notes)} notes",
        f"oracle: asked: {counts[0]}",
        f"oracle: answered: {counts[1]}",
        *(f"TORN FORK {family}" for family in report.torn),
        *(f"VIOLATION {violation}" for violation in report.violations),
        *(f"UNDECIDED {family}" for family in report.undecided),
    ]
    verdict = "FAILED" if report.violations else "undecided" if report.undecided else "passed"
    largest = f"largest difference to the offline run {report.largest_difference:.1e}"
    return "\n".join([*lines, f"oracle: {verdict}: {len(report.violations)} violations; {report.places:,} places looked at; {largest}"])


def judge(path: Path, store: Path, keep: int | None = None, limit: int = LIMIT, strict: bool = False) -> Report:
    """Judge the history in `path` with the archive of its model. Raises ValueError, LookupError, OSError."""
    recorded = history.read(path)
    named = {archive.name: archive for archive in find(store)}
    if recorded.head["model"] not in named:
        raise LookupError(f"{store} has no archive of {recorded.head['model']!r}; it has {', '.join(named)}")
    archive = named[recorded.head["model"]].path
    model = OfflineModel(archive)
    if model.digest != recorded.head["digest"]:
        raise ValueError(f"{archive} is not the model that {path} was recorded with: {model.digest[:12]}, {recorded.head['digest'][:12]}")
    return check(recorded, model, pool(archive, recorded.head["pool"]), keep, limit, strict)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.oracle", description="Judge a recorded history.")
    parser.add_argument("history", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="folder with the model's archive (default: model_store)")
    parser.add_argument("--keep-versions", type=int, help="the service's; without it any rewind may be refused")
    parser.add_argument("--strict", action="store_true", help="a fork that is not one moment is a violation, too")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"places to look at before a family is given up (default: {LIMIT:,})")
    options = parser.parse_args(arguments)
    try:
        report = judge(options.history, options.store, options.keep_versions, options.limit, options.strict)
    except (ValueError, LookupError, OSError) as e:
        print(f"oracle: {e}", file=sys.stderr)
        return 2
    print(printed(report))
    return report.code


if __name__ == "__main__":
    sys.exit(main())
