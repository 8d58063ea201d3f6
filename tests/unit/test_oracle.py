"""The oracle explains what a right service can have answered, and nothing else: planted violations are found, each by name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.history import Answer, History, Invocation, Operation, Recorder, read
from loadtests.oracle import judge as oracle
from loadtests.oracle.report import Report, printed

POOL = np.random.default_rng(0).normal(size=(40, 1))
KEEP = 3


class Fading:
    """A model to judge by: a sum in which every earlier row counts for less. It remembers all of them, and their order."""

    tolerance = 1e-6

    def begin(self) -> float:
        return 0.0

    def run(self, state: float, x: Any) -> tuple[float, Any]:
        for (value,) in x:
            state = 0.7 * state + value
        return state, np.array([state])


def prediction(rows: Sequence[int]) -> list[float]:
    return Fading().run(0.0, POOL[list(rows)])[1].tolist()


def check(operations: Sequence[Operation], **options: Any) -> Report:
    return oracle.check(History({}, sorted(operations, key=lambda o: o.start), []), Fading(), POOL, KEEP, **options)


# Histories by hand: a clock that ticks twice an operation, unless operations overlap.


@dataclass
class Told:
    """Operations one after the other, each answered as it is said to be."""

    operations: list[Operation] = field(default_factory=list)

    def add(self, asked: Invocation, answer: Answer, start: float | None = None, end: float | None = None) -> "Told":
        n = len(self.operations)
        known = not answer.known and not answer.not_applied
        ended = math.inf if known and end is None else 2.0 * n + 1 if end is None else end
        self.operations.append(Operation(n + 1, asked, 2.0 * n if start is None else start, ended, answer))
        return self

    def step(self, at: int, rows: Sequence[int], after: Sequence[int], id: str = "a", **more: Any) -> "Told":
        """A step of consecutive `rows` at position `at`, answered as if the session had then consumed `after`."""
        times = {name: more.pop(name) for name in ("start", "end") if name in more}
        asked = Invocation("me", id, step=at, inputs=(rows[0], rows[-1] + 1), generation=more.pop("sent", None))
        answer = Answer(200, session=id, step=len(after), prediction=prediction(after))
        return self.add(asked, replace(answer, **more), **times)

    def lost(self, at: int, rows: Sequence[int], **times: float) -> "Told":
        return self.add(Invocation("me", "a", step=at, inputs=(rows[0], rows[-1] + 1)), Answer(detail="ReadTimeout"), **times)

    def act(self, action: str, step: int, id: str = "a", of: str = "a", **more: Any) -> "Told":
        """An action answered with a position; `id` is the session in the answer, `of` the one that was asked."""
        names = ("to", "from_step", "state")
        fields = {name: more.pop(name) for name in names if name in more} | ({"step": step} if action == "rewind" else {})
        fields["generation"] = more.pop("sent", None)
        given = {"state": more.pop("given")} if "given" in more else {}
        times = {name: more.pop(name) for name in ("start", "end") if name in more}
        return self.add(Invocation("me", of, action, **fields), Answer(200, session=id, step=step, **more, **given), **times)

    def refused(self, asked: Invocation, status: int, code: str, expected: int | None = None, **more: Any) -> "Told":
        times = {name: more.pop(name) for name in ("start", "end") if name in more}
        return self.add(asked, Answer(status, code, expected=expected, **more), **times)


def told() -> Told:
    return Told()


STEP_1 = Invocation("me", "a", step=1, inputs=(5, 6))
LOOK = Invocation("me", "a", "describe")
STARTED = [0, 1, 2]


def started() -> Told:
    return told().step(0, [0, 1], [0, 1]).step(2, [2], STARTED)


RIGHT: dict[str, Callable[[], Told]] = {
    "a stream": started,
    "a repetition": lambda: started().step(2, [2], STARTED, replayed=True),
    "a conflict": lambda: started().refused(STEP_1, 409, "step_conflict", 3),
    "a lost step that was applied": lambda: started().lost(3, [9]).step(4, [8], [*STARTED, 9, 8]),
    "a lost step that was not applied": lambda: started().lost(3, [9]).step(3, [8], [*STARTED, 8]),
    "a lost step, applied, and repeated": lambda: started().lost(3, [9]).step(3, [9], [*STARTED, 9], replayed=True),
    "a lost step that arrives much later": lambda: started().lost(3, [9]).act("describe", 3).act("describe", 4),
    "rivals at once, of which one wins": lambda: (
        started()
        .step(3, [9], [*STARTED, 9], start=10, end=20)
        .refused(Invocation("you", "a", step=3, inputs=(8, 9)), 409, "step_conflict", 4, start=11, end=19)
    ),
    "a look during a step, before it": lambda: started().step(3, [9], [*STARTED, 9], start=10, end=20).act("describe", 3, start=11, end=12),
    "a fork, and both go on": lambda: (
        started().act("fork", 3, "b", to="b").step(3, [9], [*STARTED, 9]).step(3, [8], [*STARTED, 8], "b").act("describe", 4)
    ),
    "a rewind, and other rows": lambda: started().act("rewind", 2, from_step=3).step(2, [7], [0, 1, 7]),
    "a rewind that was lost": lambda: started().add(Invocation("me", "a", "rewind", step=2), Answer(502)).step(2, [7], [0, 1, 7]),
    "a rewind too far": lambda: started().refused(Invocation("me", "a", "rewind", step=1), 422, "invalid_input"),
    "out as a state, and in again": lambda: (
        started().act("export", 3, given="x").act("import", 3, "c", "c", state="x").step(3, [7], [*STARTED, 7], "c")
    ),
    "a close, and late deliveries": lambda: (
        started()
        .act("close", 3, closed=True)
        .refused(LOOK, 410, "session_closed")
        .step(2, [2], STARTED, replayed=True, closed=True)
        .act("close", 3, closed=True)
    ),
}

WRONG: dict[str, tuple[Callable[[], Told], str]] = {
    "a step applied twice": (lambda: started().step(2, [2], [*STARTED, 2]), "right there would be 200, a at 3 replayed"),
    "a step applied twice, seen later": (lambda: started().step(3, [9], [*STARTED, 2, 9]), "200, a at 4;"),
    "a step applied twice, in the numbers alone": (lambda: started().step(3, [9], [0, 1, 2, 2, 9], step=4), "prediction"),
    "an acknowledged step that is lost": (lambda: started().step(2, [9], [0, 1, 9]), "409 step_conflict, expected 3"),
    "a stale read": (lambda: started().act("describe", 2), "200, a at 3;"),
    "a wrong digit": (lambda: started().step(3, [9], [*STARTED, 9], prediction=[prediction([*STARTED, 9])[0] + 1e-4]), "apart"),
    "no number at all": (lambda: started().step(3, [9], [*STARTED, 9], prediction=[math.nan]), "apart"),
    "a fork that follows its source": (
        lambda: started().act("fork", 3, "b", to="b").step(3, [9], [*STARTED, 9]).act("describe", 4, "b", "b"),
        "200, b at 3;",
    ),
    "a fork that follows its source in the numbers": (
        lambda: started().act("fork", 3, "b", to="b").step(3, [9], [*STARTED, 9]).step(3, [8], [*STARTED, 9, 8], "b", step=4),
        "prediction",
    ),
    "a repetition that is answered otherwise": (
        lambda: started().step(2, [2], STARTED, replayed=True, prediction=[prediction(STARTED)[0] + 1e-9]),
        "the repetition was answered",
    ),
    "two repetitions that differ": (
        lambda: (
            started()
            .lost(3, [9])
            .step(3, [9], [*STARTED, 9], replayed=True)
            .step(3, [9], [*STARTED, 9], replayed=True, prediction=[prediction([*STARTED, 9])[0] + 1e-9])
        ),
        "the repetition was answered",
    ),
    "an answer from zero for a session that is missing": (lambda: told().step(4, [5], [5]), "404 session_not_found;"),
    "a rewind that keeps the later steps": (lambda: started().act("rewind", 2).step(2, [7], [*STARTED, 7], step=3), "prediction"),
    "a rewind that does nothing": (lambda: started().act("rewind", 2).act("describe", 3), "200, a at 2;"),
    "a rewind beyond what is kept": (lambda: started().act("rewind", 1), "422 invalid_input;"),
    "a rewind refused that is kept": (
        lambda: started().refused(Invocation("me", "a", "rewind", step=2), 422, "invalid_input"),
        "200, a at 2;",
    ),
    "two rivals acknowledged at one position": (
        lambda: started().step(3, [9], [*STARTED, 9], start=10, end=20).step(3, [8], [*STARTED, 8], start=10, end=20),
        "409 step_conflict, expected 4;",
    ),
    "a session resurrected after its close": (lambda: started().act("close", 3, closed=True).step(0, [5], [5]), "410 session_closed;"),
    "a conflict that names another position": (
        lambda: started().refused(STEP_1, 409, "step_conflict", 2),
        "409 step_conflict, expected 3;",
    ),
    "a refusal without a reason": (lambda: started().refused(LOOK, 404, "session_not_found"), "200, a at 3;"),
    "a lost step before it was sent": (lambda: started().act("describe", 4).lost(3, [9]), "200, a at 3;"),
    "said not to be applied, and was": (
        lambda: (
            started()
            .add(Invocation("me", "a", step=3, inputs=(9, 10)), Answer(503, "store_unavailable", not_applied=True))
            .act("describe", 4)
        ),
        "200, a at 3;",
    ),
    "another session's answer": (lambda: started().step(3, [9], [*STARTED, 9], session="z"), "200, a at 4;"),
    "a state that nobody was given": (lambda: started().act("import", 3, "c", "c", state="x"), "was never exported"),
    "a state of another moment": (
        lambda: started().act("export", 3, given="x").step(3, [9], [*STARTED, 9]).act("import", 4, "c", "c", state="x"),
        "200, c at 3;",
    ),
    "a damaged record": (lambda: started().add(LOOK, Answer(503, "session_unreadable")), "a stored record is damaged"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_right_service_answers_is_explained(name: str) -> None:
    report = check(RIGHT[name]().operations)
    assert (report.code, report.violations) == (0, []), printed(report)


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_violation_is_found_and_told(name: str) -> None:
    make, said = WRONG[name]
    report = check(make().operations)
    assert report.code == 1
    assert any(violation.startswith("session ") and said in violation for violation in report.violations), report.violations


def test_a_fork_that_is_not_one_moment_is_told_and_strictly_a_violation() -> None:
    """The fork took its source as it was before a step that was over before the fork was there."""
    history = started().act("fork", 3, "b", to="b", start=10, end=20).step(3, [9], [*STARTED, 9], start=11, end=12)
    history.refused(Invocation("me", "b", "describe"), 404, "session_not_found", start=13, end=14)
    assert (check(history.operations).code, len(check(history.operations).non_atomic_forks)) == (0, 1)
    assert check(history.operations, strict=True).code == 1


def test_a_family_too_hard_to_decide_is_told_so() -> None:
    assert check(started().operations, limit=0).code == 3


def test_a_history_of_a_client_that_was_killed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Recorder(path, {"model": "m"}) as recorder:
        recorder.answer(recorder.invoke(STEP_1), Answer(409, "step_conflict", expected=3))
        recorder.invoke(LOOK)
        recorder.note("killed worker 7")
    path.write_bytes(path.read_bytes() + b'{"answer": 2, "sta')
    found = read(path)
    assert [(o.invocation, o.known, o.unknown) for o in found.operations] == [(STEP_1, True, False), (LOOK, False, True)]
    assert found.operations[0].answer.expected == 3
    assert (found.head["model"], found.notes) == ("m", ["killed worker 7"])
