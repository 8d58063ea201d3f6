"""Compare answers with the offline ones, and name what is wrong with an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from loadtests.load.answers import Answers
from loadtests.offline import Array

# What can be wrong with an answer. A wrong answer is a 200 that should have said something else.
DIGITS, SWAPPED, APPLIED_TWICE, SESSION, MALFORMED = (
    "wrong digits",
    "another stream's answer",
    "step applied twice",
    "wrong session",
    "malformed",
)
REFUSED, NO_ANSWER = "refused", "no answer"
WRONG = frozenset({DIGITS, SWAPPED, APPLIED_TWICE, SESSION, MALFORMED})
MATCH = 0.05  # of the tolerance: how near a wrong answer must come to another stream's, so that it is no coincidence
RETRYABLE_STATUS = frozenset({0, 429, 500, 502, 503, 504, 507})  # 500 and 507: a worker died with the request inside


class Problem(NamedTuple):
    """What is wrong with an answer: one of the names above, and a sentence."""

    name: str
    detail: str

    @property
    def wrong(self) -> bool:
        """Whether an answer was given and is wrong, as opposed to a request that failed."""
        return self.name in WRONG


@dataclass(frozen=True, slots=True)
class Reply:
    """One response.

    Attributes:
        status: the HTTP status; 0 when no complete response arrived.
        content: the body, or what went wrong in words.
        attempt: how often the request was delivered, from 1.
        header_length: bytes of the JSON before the raw bytes of tensors; None where the body has none.
        token_renewed: whether the token was refused and has been read again.
    """

    status: int
    content: bytes = b""
    attempt: int = 1
    header_length: int | None = None
    token_renewed: bool = False

    @property
    def retryable(self) -> bool:
        """Whether the same request may be sent again and may then succeed."""
        return self.token_renewed or self.status in RETRYABLE_STATUS

    def parsed(self) -> tuple[dict[str, Any], Problem | None]:
        """Return the answer object of a 200, and what is wrong with the response as such."""
        if self.status != 200:
            return {}, failure(self)
        try:
            answer = orjson.loads(self.content)
        except orjson.JSONDecodeError as e:
            return {}, Problem(MALFORMED, f"not JSON: {e}")
        return (answer, None) if isinstance(answer, dict) else ({}, Problem(MALFORMED, "not a JSON object"))


def failure(reply: Reply) -> Problem:
    """Describe a response that is no 200."""
    text = reply.content[:200].decode(errors="replace")
    return Problem(REFUSED if reply.status else NO_ANSWER, f"status {reply.status}: {text}" if reply.status else text)


class Checker:
    """Compare predictions with the offline answers, and remember the largest difference."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.largest = answers, 0.0
        self._scales = {id(reference): _scales(reference) for reference in (answers.window, answers.stream, answers.forecast)}

    def window(self, row: int, answer: Mapping[str, Any], field: str = "prediction") -> Problem | None:
        """Check the answer to the first WINDOW steps of a sequence."""
        return self._compare(answer.get(field), self.answers.window, row, self.answers.window[row], f"window {row}")

    def forecast(self, row: int, answer: Mapping[str, Any]) -> Problem | None:
        """Check the forecast after the first WINDOW steps of a sequence."""
        return self._compare(answer.get("forecast"), self.answers.forecast, row, self.answers.forecast[row], f"forecast {row}")

    def hidden(self, row: int, answer: Mapping[str, Any]) -> Problem | None:
        """Check `output` and the final states after the first WINDOW steps of a sequence."""
        for name, reference in self.answers.hidden.items():
            given = numbers(answer.get(name))
            if given is None or given.shape != reference[row].shape:
                return Problem(MALFORMED, f"window {row}: {name} is no array of shape {list(reference[row].shape)}")
            if (
                problem := self._within(given, reference[row], max(1.0, float(np.abs(reference[row]).max())), f"window {row}: {name}")
            ) is not None:
                return problem
        return None

    def step(self, row: int, start: int, stop: int, answer: Mapping[str, Any]) -> Problem | None:
        """Check the prediction for steps `start .. stop` of the stream of a sequence."""
        right, where = self.answers.after(row, start, stop), f"sequence {row}, steps {start} to {stop}"
        given = numbers(answer.get("prediction"))
        if given is None or given.shape != right.shape:
            return Problem(MALFORMED, f"{where}: prediction is no array of shape {list(right.shape)}")
        problem = self._within(given, right, float(self._scales[id(self.answers.stream)][row]), f"{where}: prediction")
        return problem and self._named(problem, given, start, stop)

    def _compare(self, value: object, references: Array, row: int, right: Array, where: str) -> Problem | None:
        given = numbers(value)
        if given is None or given.shape != right.shape:
            return Problem(MALFORMED, f"{where}: no array of shape {list(right.shape)}")
        return self._within(given, right, float(self._scales[id(references)][row]), where)

    def _within(self, given: Array, right: Array, scale: float, where: str) -> Problem | None:
        difference = float(np.abs(given - right).max()) / scale
        self.largest = max(self.largest, difference)
        if difference <= self.answers.tolerance:  # false for a NaN
            return None
        return Problem(
            DIGITS, f"{where} differs from the offline answer by {difference:.1e} (scaled), allowed {self.answers.tolerance:.0e}"
        )

    def _named(self, problem: Problem, given: Array, start: int, stop: int) -> Problem:
        """Look whether a wrong answer is the right one of another stream at the same position."""
        for other, scale in enumerate(self._scales[id(self.answers.stream)]):
            right = self.answers.after(other, start, stop)
            if np.abs(given - right).max() / scale <= MATCH * self.answers.tolerance:
                return Problem(SWAPPED, f"{problem.detail}; it is the answer of sequence {other}")
        return problem


def wrong_session(
    answer: Mapping[str, Any], id: str, step: int, replayed: bool | None = False, closed: bool = False, generation: int | None = None
) -> Problem | None:
    """Check an answer's `session`.

    `replayed` is None where the request was delivered more than once and either may be right; `generation` is None where it is not asked.
    """
    session = answer.get("session")
    if not isinstance(session, dict):
        return Problem(MALFORMED, "session: missing in the answer")
    right: dict[str, Any] = {"id": id, "step": step, "closed": closed}
    right |= {name: value for name, value in (("replayed", replayed), ("generation", generation)) if value is not None}
    seen: dict[str, Any] = {"closed": False} | session
    wrong = [f"session.{name}: {seen.get(name)!r} instead of {value!r}" for name, value in right.items() if seen.get(name) != value]
    if not wrong:
        return None
    position = seen.get("step")
    twice = seen.get("id") == id and isinstance(position, int) and position > step
    return Problem(APPLIED_TWICE if twice else SESSION, "; ".join(wrong))


def numbers(value: object) -> Array | None:
    """Return nested lists as an array of float64, or None for what is none."""
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _scales(reference: Array) -> Array:
    """Return the largest absolute value of each whole answer, at least 1: a value near zero is a sum of terms like its neighbours'."""
    if not len(reference):
        return np.empty(0)
    return np.asarray(np.maximum(1.0, np.abs(reference).reshape(len(reference), -1).max(axis=1)))
