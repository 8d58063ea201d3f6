"""What clients of a deployment do, as flows: generators that yield requests with the check of their answers, and are sent the replies.

A flow does no I/O. A Locust user runs a flow from its start to its end; the open loop advances a flow by one request each time one is due.
"""

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from loadtests.load.answers import HORIZON, Answers
from loadtests.load.checks import REFUSED, SWAPPED, Checker, Problem, Reply, failure, wrong_session
from loadtests.offline import WINDOW

BULK = 16  # sessions of one body
MAX_STEPS = 6  # of one request of a stream
SEVERAL_SHARE, RETRY_SHARE = 0.15, 0.1  # of a stream's requests
Check = Callable[[Reply], Problem | None]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, its name in reports, and the check of its answer."""

    kind: str
    body: bytes
    check: Check


Flow = Generator[Exchange, Reply, None]
MakeFlow = Callable[[Checker, random.Random, str], Flow]


def encode(request: Mapping[str, Any]) -> bytes:
    """Encode a request object; NumPy arrays are written as nested lists."""
    return orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)


def predict(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for one prediction of one window."""
    row = draw.randrange(len(checker.answers.x))
    yield Exchange("predict", encode({"inputs": checker.answers.x[row, :WINDOW]}), _answered(lambda answer: checker.window(row, answer)))


def predict_hidden(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for the prediction of one window, its outputs and its final states."""
    row = draw.randrange(len(checker.answers.x))
    request = {"inputs": checker.answers.x[row, :WINDOW], "return": ["prediction", *checker.answers.hidden]}
    yield Exchange("predict_hidden", encode(request), _answered(lambda answer: checker.window(row, answer) or checker.hidden(row, answer)))


def client_state(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Send a window in two requests, holding the state between them."""
    row, cut = draw.randrange(len(checker.answers.x)), draw.randint(1, WINDOW - 1)
    first = {"inputs": checker.answers.x[row, :cut], "return": ["prediction", "state"]}
    reply = yield Exchange("client_state: first", encode(first), _answered(lambda answer: checker.step(row, 0, cut, answer)))
    state = reply.parsed()[0].get("state")
    then = {"inputs": checker.answers.x[row, cut:WINDOW], "state": state}
    yield Exchange("client_state: second", encode(then), _answered(lambda answer: checker.step(row, cut, WINDOW, answer)))


def forecast(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for a forecast after one window."""
    answers, row = checker.answers, draw.randrange(len(checker.answers.x))
    request: dict[str, Any] = {"inputs": answers.x[row, :WINDOW], "horizon": HORIZON}
    if answers.future:
        request["future"] = answers.x[row, WINDOW : WINDOW + HORIZON, answers.future].T.tolist()
    yield Exchange("forecast", encode(request), _answered(lambda answer: checker.forecast(row, answer)))


def stream(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Open a session, feed it one observation at a time, now and then several or a repetition, and close it."""
    row, start = draw.randrange(len(checker.answers.x)), 0
    while start < checker.answers.steps:
        several = draw.random() < SEVERAL_SHARE
        stop = min(checker.answers.steps, start + (draw.randint(2, MAX_STEPS) if several else 1))
        kind = "stream: open" if start == 0 else "stream: step" if stop == start + 1 else "stream: several steps"
        reply = yield step(checker, kind, id, row, start, stop)
        if draw.random() < RETRY_SHARE:
            yield _repetition(step(checker, "stream: retry", id, row, start, stop, replayed=True), reply)
        start = stop
    yield close("stream: close", id, checker.answers.steps)


def meter(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Open a session and feed it one observation at a time, as a meter does; after the last one of its sequence, close it."""
    row = draw.randrange(len(checker.answers.x))
    for start in range(checker.answers.steps):
        yield step(checker, "stream: step" if start else "stream: open", id, row, start, start + 1)
    yield close("stream: close", id, checker.answers.steps)


def bulk(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Feed several sessions with one request for each observation of all of them."""
    rows = [draw.randrange(len(checker.answers.x)) for _ in range(BULK)]
    for start in range(WINDOW):
        requests = [_step_request(checker.answers, f"{id}-{i}", row, start, start + 1) for i, row in enumerate(rows)]
        yield Exchange("bulk: step", encode({"instances": requests}), _bulk_check(checker, rows, id, start))
    closes = [{"session": {"id": f"{id}-{i}", "action": "close"}} for i in range(BULK)]
    yield Exchange("bulk: close", encode({"instances": closes}), _answered(lambda answer: None))


def churn(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Create a session, fork it, rewind it, step both on, close one and leave the other to expire."""
    row, other = (draw.randrange(len(checker.answers.x)) for _ in range(2))
    copy = f"{id}-fork"
    yield step(checker, "churn: create", id, row, 0, 2)
    yield step(checker, "churn: step", id, row, 2, 3)
    yield _action("churn: fork", id, 3, {"action": "fork", "to": copy}, answered=copy)
    yield _action("churn: rewind", id, 3, {"action": "rewind", "step": 3})  # in place: allowed whatever the service keeps
    yield step(checker, "churn: step", id, row, 3, 4)
    yield step(checker, "churn: step", copy, row, 3, 4)
    yield _action("churn: describe", id, 4, {"action": "describe"})
    yield close("churn: close", id, 4)
    if other % 2:
        yield close("churn: close", copy, 4)


def hostile(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Send what must be refused: the expected refusal is the success."""
    inputs = checker.answers.x[0, :1].tolist()
    yield refused("hostile: malformed", b'{"inputs": [[1.0', 400, "malformed_json")
    yield refused("hostile: unknown field", encode({"inputs": inputs, "colour": "red"}), 400, "unknown_field")
    yield refused("hostile: wrong shape", encode({"inputs": [[[0.0]]]}), 422, "invalid_input")
    yield refused("hostile: text", encode({"inputs": [["many"]]}), 422, "invalid_input")
    yield refused("hostile: oversized", encode({"inputs": inputs * 20_000}), 413, "too_large")
    if checker.answers.streaming:
        yield refused("hostile: unknown session", encode({"inputs": inputs, "session": {"id": id, "step": 5}}), 404, "session_not_found")
        yield step(checker, "hostile: create", id, 0, 0, 1)
        yield refused("hostile: stale step", encode({"inputs": inputs, "session": {"id": id, "step": 7}}), 409, "step_conflict")
        yield close("hostile: close", id, 1)
        yield refused("hostile: closed", encode({"inputs": inputs, "session": {"id": id, "step": 1}}), 410, "session_closed")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A flow with its weight in the default mix, and what it needs of the model."""

    flow: MakeFlow
    weight: int
    sessions: bool = False
    forecasts: bool = False

    def fits(self, answers: Answers) -> bool:
        """Whether the model can serve it."""
        return (answers.streaming or not self.sessions) and (answers.forecasts or not self.forecasts)


SCENARIOS: dict[str, Scenario] = {
    "predict": Scenario(predict, 4),
    "predict_hidden": Scenario(predict_hidden, 1),
    "client_state": Scenario(client_state, 1, sessions=True),
    "stream": Scenario(stream, 12, sessions=True),
    "forecast": Scenario(forecast, 1, forecasts=True),
    "bulk": Scenario(bulk, 1, sessions=True),
    "churn": Scenario(churn, 1, sessions=True),
    "hostile": Scenario(hostile, 1),
}


def parse_mix(text: str) -> dict[str, int]:
    """Read `stream=3,predict=1` as weights by scenario; empty text is the default mix.

    Raises:
        ValueError: a name is no scenario, or a weight is no positive integer.
    """
    if not text:
        return {name: scenario.weight for name, scenario in SCENARIOS.items()}
    mix = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        if name not in SCENARIOS:
            raise ValueError(f"scenarios: no {name!r}; there are {', '.join(SCENARIOS)}")
        if not (weight or "1").isdigit() or int(weight or "1") == 0:
            raise ValueError(f"scenarios: the weight of {name} must be a positive integer, got {weight!r}")
        mix[name] = int(weight or "1")
    return mix


# Requests and checks that several flows share.


def step(checker: Checker, kind: str, id: str, row: int, start: int, stop: int, replayed: bool = False) -> Exchange:
    """Return the request of steps `start .. stop` of a session that follows sequence `row`."""

    def check(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        told = replayed if reply.attempt == 1 else None
        return problem or wrong_session(answer, id, stop, told) or checker.step(row, start, stop, answer)

    return Exchange(kind, encode(_step_request(checker.answers, id, row, start, stop)), check)


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


def _answered(check: Callable[[dict[str, Any]], Problem | None]) -> Check:
    """Check the answer object of a 200."""

    def checked(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        return problem or check(answer)

    return checked


def _step_request(answers: Answers, id: str, row: int, start: int, stop: int) -> dict[str, Any]:
    return {"inputs": answers.x[row, start:stop], "session": {"id": id, "step": start}}


def _action(kind: str, id: str, position: int, action: dict[str, Any], answered: str = "") -> Exchange:
    def check(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        return problem or wrong_session(answer, answered or id, position, None)

    return Exchange(kind, encode({"session": {"id": id} | action}), check)


def _repetition(exchange: Exchange, first: Reply) -> Exchange:
    """Check a repetition as the step itself, and that it is answered to the digit as the step was."""
    right = first.parsed()[0].get("prediction")

    def check(reply: Reply) -> Problem | None:
        problem = exchange.check(reply)
        if problem is None and reply.parsed()[0].get("prediction") != right:
            return Problem(SWAPPED, "the repetition was answered otherwise than the step itself")
        return problem

    return Exchange(exchange.kind, exchange.body, check)


def _bulk_check(checker: Checker, rows: list[int], id: str, start: int) -> Check:
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

    return _answered(check)
