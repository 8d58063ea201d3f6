"""Count what a history contains, and print what the judge found in it."""

from collections import Counter
from dataclasses import dataclass, field

from loadtests.history import History, Operation

BROKEN = {"session_unreadable": "a stored record is damaged", "internal_error": "the service failed on a sound request"}


@dataclass
class Report:
    """What was found in one history."""

    operations: int = 0
    sessions: int = 0
    partitions: int = 0
    largest_partition: int = 0  # in operations
    unknown: int = 0  # operations of unknown outcome
    visited: int = 0  # places of the searches
    largest_difference: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    non_atomic_forks: list[str] = field(default_factory=list)  # partitions explained only by a fork that takes two moments

    @property
    def code(self) -> int:
        """The exit code: 0 explained, 1 a violation, 3 undecided."""
        return 1 if self.violations else 3 if self.undecided else 0


def counted(recorded: History) -> Report:
    """Count the operations of a history. Answers that are wrong in any order are violations already."""
    report = Report(len(recorded.operations), notes=recorded.notes)
    for operation in recorded.operations:
        answer = operation.answer
        report.kinds[_kind(operation)] += 1
        report.unknown += operation.unknown
        report.answers[
            ("replayed" if answer.replayed else "200") if answer.status == 200 else answer.code or "no answer of the service"
        ] += 1
        if answer.code in BROKEN:
            report.violations.append(f"session {operation.invocation.session}: {operation}: {BROKEN[answer.code]}: {answer.detail}")
    return report


def _kind(operation: Operation) -> str:
    asked = operation.invocation
    if asked.action != "step":
        return asked.action
    return "what-if" if not asked.commit else "step without number" if asked.step is None else "step"


def printed(report: Report) -> str:
    """Return the report as lines of text."""
    counts = [", ".join(f"{name} {n:,}" for name, n in counter.most_common()) for counter in (report.kinds, report.answers)]
    lines = [
        f"oracle: {report.operations:,} operations on {report.sessions:,} sessions in {report.partitions:,} partitions "
        f"(largest {report.largest_partition:,}); {report.unknown:,} of unknown outcome; {len(report.notes)} notes",
        f"oracle: asked: {counts[0]}",
        f"oracle: answered: {counts[1]}",
        *(f"NON-ATOMIC FORK {sentence}" for sentence in report.non_atomic_forks),
        *(f"VIOLATION {sentence}" for sentence in report.violations),
        *(f"UNDECIDED {sentence}" for sentence in report.undecided),
    ]
    verdict = "FAILED" if report.violations else "undecided" if report.undecided else "passed"
    largest = f"largest difference to the offline run {report.largest_difference:.1e}"
    return "\n".join([*lines, f"oracle: {verdict}: {len(report.violations)} violations; {report.visited:,} places visited; {largest}"])
