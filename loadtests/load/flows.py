"""What clients of a deployment do, as flows: generators that yield requests with the check of their answers, and are sent the replies.

A flow does no I/O. A Locust user runs a flow from its start to its end; the open loop advances a flow by one request each time one is due.
"""

import random
from typing import Any

from loadtests.load.answers import HORIZON
from loadtests.load.checks import Checker
from loadtests.load.exchange import Exchange, Flow, action, answered, bulk_check, close, encode, refused, repetition, step, step_request
from loadtests.offline import WINDOW

BULK = 16  # sessions of one body
MAX_STEPS = 6  # of one request of a stream
SEVERAL_SHARE, RETRY_SHARE = 0.15, 0.1  # of a stream's requests


def predict(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for one prediction of one window."""
    row = draw.randrange(len(checker.answers.x))
    yield Exchange("predict", encode({"inputs": checker.answers.x[row, :WINDOW]}), answered(lambda answer: checker.window(row, answer)))


def predict_hidden(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for the prediction of one window, its outputs and its final states."""
    row = draw.randrange(len(checker.answers.x))
    request = {"inputs": checker.answers.x[row, :WINDOW], "return": ["prediction", *checker.answers.hidden]}
    yield Exchange("predict_hidden", encode(request), answered(lambda answer: checker.window(row, answer) or checker.hidden(row, answer)))


def client_state(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Send a window in two requests, holding the state between them."""
    row, cut = draw.randrange(len(checker.answers.x)), draw.randint(1, WINDOW - 1)
    first = {"inputs": checker.answers.x[row, :cut], "return": ["prediction", "state"]}
    reply = yield Exchange("client_state: first", encode(first), answered(lambda answer: checker.step(row, 0, cut, answer)))
    state = reply.parsed()[0].get("state")
    then = {"inputs": checker.answers.x[row, cut:WINDOW], "state": state}
    yield Exchange("client_state: second", encode(then), answered(lambda answer: checker.step(row, cut, WINDOW, answer)))


def forecast(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for a forecast after one window."""
    answers, row = checker.answers, draw.randrange(len(checker.answers.x))
    request: dict[str, Any] = {"inputs": answers.x[row, :WINDOW], "horizon": HORIZON}
    if answers.future:
        request["future"] = answers.x[row, WINDOW : WINDOW + HORIZON, answers.future].T.tolist()
    yield Exchange("forecast", encode(request), answered(lambda answer: checker.forecast(row, answer)))


def stream(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Open a session, feed it one observation at a time, now and then several or a repetition, and close it."""
    row, start = draw.randrange(len(checker.answers.x)), 0
    while start < checker.answers.steps:
        several = draw.random() < SEVERAL_SHARE
        stop = min(checker.answers.steps, start + (draw.randint(2, MAX_STEPS) if several else 1))
        kind = "stream: open" if start == 0 else "stream: step" if stop == start + 1 else "stream: several steps"
        reply = yield step(checker, kind, id, row, start, stop)
        if draw.random() < RETRY_SHARE:
            yield repetition(step(checker, "stream: retry", id, row, start, stop, replayed=True), reply)
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
        requests = [step_request(checker.answers, f"{id}-{i}", row, start, start + 1) for i, row in enumerate(rows)]
        yield Exchange("bulk: step", encode({"instances": requests}), bulk_check(checker, rows, id, start))
    closes = [{"session": {"id": f"{id}-{i}", "action": "close"}} for i in range(BULK)]
    yield Exchange("bulk: close", encode({"instances": closes}), answered(lambda answer: None))


def churn(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Create a session, fork it, rewind it, step both on, close one and leave the other to expire."""
    row, other = (draw.randrange(len(checker.answers.x)) for _ in range(2))
    copy = f"{id}-fork"
    yield step(checker, "churn: create", id, row, 0, 2)
    yield step(checker, "churn: step", id, row, 2, 3)
    yield action("churn: fork", id, 3, {"action": "fork", "to": copy}, told=copy)
    rewind = {"action": "rewind", "step": 3, "generation": 0}  # in place: allowed whatever the service keeps
    yield action("churn: rewind", id, 3, rewind, generation=1)
    yield step(checker, "churn: step", id, row, 3, 4, generation=1)
    yield step(checker, "churn: step", copy, row, 3, 4)
    yield action("churn: describe", id, 4, {"action": "describe"}, generation=1)
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
