"""A request of a load test with the check of its answer, and those that several flows share."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from loadtests.load.answers import Answers
from loadtests.load.checks import REFUSED, SWAPPED, Checker, Problem, Reply, failure, wrong_session

HEADER_LENGTH = "Inference-Header-Content-Length"  # of the Open Inference Protocol's raw bytes
Check = Callable[[Reply], Problem | None]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, its name in reports, and the check of its answer.

    `path` is a template; empty for the native protocol's. `headers` go beside those that every request has, or in their place.
    """

    kind: str
    body: bytes
    check: Check
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


Flow = Generator[Exchange, Reply, None]


def encode(request: Mapping[str, Any]) -> bytes:
    """Encode a request object; NumPy arrays are written as nested lists."""
    return orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)


def step(checker: Checker, kind: str, id: str, row: int, start: int, stop: int, replayed: bool = False, generation: int = 0) -> Exchange:
    """Return the request of steps `start .. stop` of a session that follows sequence `row` and was rewound `generation` times."""

    def check(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        told = replayed if reply.attempt == 1 else None
        return problem or wrong_session(answer, id, stop, told, generation=generation) or checker.step(row, start, stop, answer)

    return Exchange(kind, encode(step_request(checker.answers, id, row, start, stop, generation)), check)


def close(kind: str, id: str, position: int) -> Exchange:
    """Return the request that closes a session at `position`."""

    def check(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        return problem or wrong_session(answer, id, position, None, closed=True)

    return Exchange(kind, encode({"session": {"id": id, "action": "close"}}), check)


def refused(kind: str, body: bytes, status: int, code: str) -> Exchange:
    """Return a request that must be refused with this status and code."""

    def check(reply: Reply) -> Problem | None:
        if reply.retryable:
            return failure(reply)
        found = reply.status, f'"{code}"'.encode() in reply.content
        text = reply.content[:120].decode(errors="replace")
        return None if found == (status, True) else Problem(REFUSED, f"status {reply.status} instead of {status} {code}: {text}")

    return Exchange(kind, body, check)


def answered(check: Callable[[dict[str, Any]], Problem | None]) -> Check:
    """Check the answer object of a 200."""

    def checked(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        return problem or check(answer)

    return checked


def step_request(answers: Answers, id: str, row: int, start: int, stop: int, generation: int = 0) -> dict[str, Any]:
    """Return the request object of steps `start .. stop` of a session that follows sequence `row`."""
    session: dict[str, Any] = {"id": id, "step": start} | ({"generation": generation} if generation else {})
    return {"inputs": answers.x[row, start:stop], "session": session}


def action(kind: str, id: str, position: int, fields: dict[str, Any], told: str = "", generation: int = 0) -> Exchange:
    """Return a request with an action, answered with a session `told` at `position`; by default the session itself.

    `generation` is how often that session was rewound.
    """

    def check(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        return problem or wrong_session(answer, told or id, position, None, generation=generation)

    return Exchange(kind, encode({"session": {"id": id} | fields}), check)


def repetition(exchange: Exchange, first: Reply) -> Exchange:
    """Check a repetition as the step itself, and that it is answered to the digit as the step was."""
    right = first.parsed()[0].get("prediction")

    def check(reply: Reply) -> Problem | None:
        problem = exchange.check(reply)
        if problem is None and reply.parsed()[0].get("prediction") != right:
            return Problem(SWAPPED, "the repetition was answered otherwise than the step itself")
        return problem

    return Exchange(exchange.kind, exchange.body, check)


def bulk_check(checker: Checker, rows: list[int], id: str, start: int) -> Check:
    """Check the answers to step `start` of several sessions, `{id}-{i}` following sequence `rows[i]`."""

    def check(answer: dict[str, Any]) -> Problem | None:
        predictions = answer.get("predictions")
        if not isinstance(predictions, list) or len(predictions) != len(rows):
            return Problem(REFUSED, f"expected {len(rows)} predictions")
        for i, (row, one) in enumerate(zip(rows, predictions, strict=True)):
            if "error" in one:
                return Problem(REFUSED, f"row {i}: {one['error'].get('code')}")
            if problem := wrong_session(one, f"{id}-{i}", start + 1, None) or checker.step(row, start, start + 1, one):
                return problem
        return None

    return answered(check)
