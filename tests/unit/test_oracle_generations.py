"""The oracle holds a service to the rules of generations: what was undone by a rewind never arrives late."""

from collections.abc import Callable

import pytest

from loadtests.history import Answer, Invocation
from loadtests.oracle.report import printed
from tests.unit.test_oracle import STARTED, Told, check, told

REWIND = Invocation("me", "a", "rewind", step=2, generation=0)
UNDONE = Invocation("me", "a", step=2, inputs=(2, 3), generation=0)


def started() -> Told:
    return told().step(0, [0, 1], [0, 1], generation=0).step(2, [2], STARTED, sent=0, generation=0)


def rewound() -> Told:
    return started().act("rewind", 2, sent=0, generation=1)


def moved_on() -> Told:
    return rewound().step(2, [7], [0, 1, 7], sent=1, generation=1)


RIGHT: dict[str, Callable[[], Told]] = {
    "a rewind raises the generation": moved_on,
    "a request may leave the generation out": lambda: rewound().step(2, [7], [0, 1, 7], generation=1),
    "a rewind repeated at once": lambda: rewound().act("rewind", 2, sent=0, generation=1, replayed=True),
    "a late duplicate of a rewind": lambda: moved_on().refused(REWIND, 409, "step_conflict", 3, generation=1),
    "a late duplicate of a rewind, one step later": lambda: (
        moved_on().step(3, [8], [0, 1, 7, 8], sent=1, generation=1).refused(REWIND, 409, "step_conflict", 4, generation=1)
    ),
    "a late delivery of an undone step": lambda: rewound().refused(UNDONE, 409, "step_conflict", 2, generation=1),
    "a rewind in place keeps the last answer": lambda: (
        started().act("rewind", 3, sent=0, generation=1).step(2, [2], STARTED, sent=0, generation=1, replayed=True)
    ),
    "a rewind that was lost and applied": lambda: (
        started().act("describe", 3, generation=0).add(REWIND, Answer(detail="ReadTimeout")).act("describe", 2, generation=1)
    ),
    "a fork repeated after a rewind in place": lambda: (
        started()
        .act("fork", 3, "b", to="b", generation=0)
        .act("rewind", 3, "b", "b", sent=0, generation=1)
        .act("fork", 3, "b", to="b", generation=1, replayed=True)
    ),
    "a rewind repeated after the close": lambda: (
        rewound().act("close", 2, closed=True, generation=1).act("rewind", 2, sent=0, generation=1, replayed=True, closed=True)
    ),
    "a fork begins at generation 0": lambda: rewound().act("fork", 2, "b", to="b", generation=0),
}

WRONG: dict[str, tuple[Callable[[], Told], str]] = {
    "an undone step applied": (
        lambda: rewound().step(2, [2], STARTED, sent=0, generation=1),
        "409 step_conflict, expected 2 in generation 1",
    ),
    "a late duplicate of a rewind applied": (lambda: moved_on().act("rewind", 2, sent=0, generation=2), "409 step_conflict, expected 3"),
    "a rewind that keeps the generation": (lambda: started().act("rewind", 2, sent=0, generation=0), "a at 2 in generation 1"),
    "a rewind repeated that raises the generation again": (
        lambda: rewound().act("rewind", 2, sent=0, generation=2),
        "generation 1 replayed",
    ),
    "a step that raises the generation": (lambda: started().step(3, [4], [*STARTED, 4], sent=0, generation=1), "in generation 0"),
    "a fork that inherits the generation": (lambda: rewound().act("fork", 2, "b", to="b", generation=1), "b at 2 in generation 0"),
    "a conflict that names another generation": (
        lambda: rewound().refused(UNDONE, 409, "step_conflict", 2, generation=0),
        "expected 2 in generation 1",
    ),
    "an answer without a generation": (lambda: rewound().act("describe", 2), "a at 2 in generation 1"),
    "a rewind in place that forgets the last answer": (
        lambda: started().act("rewind", 3, sent=0, generation=1).refused(UNDONE, 409, "step_conflict", 3, generation=1),
        "in generation 1 replayed",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_explained(name: str) -> None:
    report = check(RIGHT[name]().operations)
    assert (report.code, report.violations) == (0, []), printed(report)


@pytest.mark.parametrize("name", WRONG)
def test_a_planted_violation_is_found_and_named(name: str) -> None:
    make, sentence = WRONG[name]
    report = check(make().operations)
    assert report.code == 1
    assert any(sentence in violation for violation in report.violations), report.violations
