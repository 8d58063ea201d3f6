"""Limits: what is too large is refused before anything changed, with the limit and the way out."""

import time

import orjson
import pytest

from handlers.engine.drain import DrainLock
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, make_service, refusal
from tests.support.requests import EVERYTHING, act, contents, position, step


def test_a_reply_that_is_too_large_is_refused_before_the_step_is_applied(two):
    store, x = MemoryStore(), two.sequence(40)
    service = make_service(two, store=store, max_reply=1_000)
    answer(service, step("a", 0, x[:1]))
    before = contents(store)
    status, code, error = refusal(service, step("a", 1, x[1:], **{"return": ["output"]}))
    assert (status, code) == (413, "too_large")
    assert "at most 1000 here" in error["message"]
    assert contents(store) == before
    assert answer(service, step("a", 1, x[1:]))["session"]["step"] == 40


def test_a_recorded_answer_that_is_too_large_for_a_fuller_body_stays_recorded(two):
    """The instances of a body share its reply: a retry among others may have less room than it had alone."""
    service, x = make_service(two, max_reply=2_000), two.sequence(8)
    request = step("a", 0, x, **{"return": ["output"]})
    answer(service, request)
    reply = answer(service, {"instances": [request, *[{"inputs": x.tolist()}] * 3]})
    assert reply["predictions"][0]["error"]["code"] == "too_large"
    assert answer(service, request)["session"]["replayed"]


@pytest.mark.parametrize("instances", [1, 7, 64, 1_000])
def test_a_reply_never_outgrows_its_limit_by_more_than_its_envelope(two, instances):
    """TorchServe ends a worker whose reply is over its own limit, which leaves room for the envelopes of a full body."""
    limit = 100_000
    service, x = make_service(two, max_reply=limit, max_body=100_000_000), two.sequence(150)
    asked = [step("x" * 100 + str(n), 0, x[: 1 + n % 150], **{"return": EVERYTHING}) for n in range(instances)]
    [outcome] = service.handle_batch([orjson.dumps({"instances": asked})])
    assert outcome.status == 200
    assert len(outcome.body) <= limit + 1_000 * instances


def test_limits_are_the_settings(two):
    service = make_service(two, max_steps=5, max_instances=2, max_horizon=3, max_body=3_000)
    x = two.sequence(6)
    assert refusal(service, {"inputs": x.tolist()})[:2] == (413, "too_large")
    assert refusal(service, {"instances": [{"inputs": x[:1].tolist()}] * 3})[:2] == (413, "too_large")
    assert refusal(service, {"inputs": x[:1].tolist(), "horizon": 4, "future": [[0, 0]] * 4})[:2] == (413, "too_large")
    assert refusal(service, b" " * 3_001)[:2] == (413, "too_large")
    assert answer(service, {"instances": [{"inputs": x[:5].tolist(), "horizon": 3, "future": [[0, 0]] * 3}] * 2})


def test_a_stopping_service_turns_everything_away_unchanged(two, tmp_path):
    store = MemoryStore()
    service = make_service(two, store=store, gate_file=str(tmp_path / "gate"))
    answer(service, step("a", 0, two.sequence(1)))
    before = contents(store)
    assert DrainLock(str(tmp_path / "gate")).drain(time.monotonic() + 10)
    for (status, reply), expected in zip(
        ask(service, step("a", 1, two.sequence(1)), {"inputs": two.sequence(1).tolist()}, act("a", "close"), b"{"),
        [(503, "draining"), (503, "draining"), (503, "draining"), (400, "malformed_json")],
        strict=True,
    ):
        assert (status, reply["error"]["code"]) == expected
    assert contents(store) == before


def test_long_requests_beyond_what_a_batch_takes_are_told_to_come_again_and_short_ones_pass(two):
    service, x = make_service(two, long_steps=5, free_long_steps=5, max_long_steps=8), two.sequence(6)
    bodies = [orjson.dumps(step(id, 0, x[:n])) for id, n in (("a", 6), ("b", 6), ("c", 2))]
    first, second, short = service.handle_batch(bodies)
    assert (first.status, second.status, short.status) == (200, 429, 200)
    error = orjson.loads(second.body)["error"]
    assert (error["code"], error["retryable"], second.headers) == ("overloaded", True, {"Retry-After": "1"})
    assert "requests of 5 steps and more take turns" in error["message"]
    assert position(service, "b") == "session_not_found"
    assert service.handle_batch(bodies[1:2])[0].status == 200
