"""A step acknowledged is a step applied exactly once: retries, duplicates, conflicts."""

import orjson
import pytest

from handlers.stores.memory import MemoryStore
from tests.conftest import BACKENDS, Clock, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import EVERYTHING, contents, fields, position, raw, step


@pytest.fixture
def store(kind, tmp_path):
    opened = kind.open(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", [True, False], ids=["the first step", "a later step"])
def test_a_retry_is_answered_from_the_record_byte_for_byte(two, backend, first, store):
    service, x = make_service(two, backend, store), two.sequence(6)
    if not first:
        answer(service, step("a", 0, x[:2]))
    request = step("a", 0 if first else 2, x[2:], **{"return": EVERYTHING, "horizon": 2, "future": [[1, 2], [3, 4]]})
    original = raw(service, request)
    before = contents(store)
    again = raw(service, request)
    assert fields(again) == fields(original)
    assert contents(store) == before
    was, now = orjson.loads(original)["session"], orjson.loads(again)["session"]
    assert (was.pop("replayed"), now.pop("replayed")) == (False, True)
    assert was == now


def test_a_retry_reaches_another_worker_or_the_same_one_restarted(two, store):
    request = step("a", 0, two.sequence(3))
    original = raw(make_service(two, store=store), request)
    assert fields(raw(make_service(two, "torchscript", store), request)) == fields(original)
    assert position(make_service(two, store=store), "a") == 3


def test_a_retry_written_in_another_way_is_the_same_request(two):
    service, x = make_service(two), two.sequence(1)
    answer(service, step("a", 0, x, **{"return": ["h_n", "prediction"]}))
    row = b"[" + b" , ".join(b"%.9e" % value for value in x[0].tolist()) + b"]"
    [(status, reply)] = ask(service, b'{"session":{"step":0,"id":"a"}, "return":["prediction","h_n"], "inputs":[' + row + b"]}")
    assert (status, reply["session"]["replayed"]) == (200, True)


@pytest.mark.parametrize(
    "change",
    [{"return": ["h_n"]}, {"horizon": 1, "future": [[0, 0]]}, {"inputs": [[9.0, 9.0, 9.0]]}, {"inputs": [[1.0, 2.0, 3.0]] * 2}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_behind_and_not_the_same_request_is_a_conflict(two, change):
    store = MemoryStore()
    service, x = make_service(two, store=store), two.sequence(3)
    answer(service, step("a", 0, x[:1]))
    answer(service, step("a", 1, x[1:2]))
    before = contents(store)
    status, code, error = refusal(service, step("a", 1, x[1:2]) | change)
    assert (status, code) == (409, "step_conflict")
    assert error["details"] == {"session": "a", "expected": 2, "generation": 0}
    assert contents(store) == before


@pytest.mark.parametrize("at", [1, 2, 3, 5, 2**53])
def test_a_step_that_the_session_is_not_at_is_a_conflict_with_the_expected_one(two, at, store):
    service, x = make_service(two, store=store), two.sequence(8)
    answer(service, step("a", 0, x[:2]))
    answer(service, step("a", 2, x[2:4]))
    before = contents(store)
    status, code, error = refusal(service, step("a", at, x[4:]))
    assert (status, code, error["details"]["expected"]) == (409, "step_conflict", 4)
    assert f'"step": {at}' in error["message"]
    assert contents(store) == before
    assert answer(service, step("a", 4, x[4:]))["session"]["step"] == 8


def test_only_the_last_step_is_answered_again(two):
    service, x = make_service(two), two.sequence(2)
    requests = [step("a", n, x[n : n + 1]) for n in range(2)]
    for request in requests:
        answer(service, request)
    assert answer(service, requests[1])["session"]["replayed"]
    assert refusal(service, requests[0])[:2] == (409, "session_exists")


def test_step_0_never_resets_a_live_session(two, store):
    service, x = make_service(two, store=store), two.sequence(4)
    answer(service, step("a", 0, x[:2]))
    before = contents(store)
    status, code, error = refusal(service, step("a", 0, x[2:]))
    assert (status, code, error["details"]["expected"]) == (409, "session_exists", 2)
    assert contents(store) == before


def test_without_a_step_a_retry_is_a_new_step(two):
    """Documented so: a client that cannot bear it names its steps."""
    service, x = make_service(two), two.sequence(3)
    answer(service, step("a", 0, x[:1]))
    replies = [answer(service, step("a", None, x[1:])) for _ in range(2)]
    assert [reply["session"]["step"] for reply in replies] == [3, 5]
    assert [reply["session"]["replayed"] for reply in replies] == [False, False]


def test_requests_of_one_session_in_one_batch_run_in_their_order(two, store):
    service, x = make_service(two, store=store), two.sequence(6)
    replies = ask(service, *(step("a", n, x[n : n + 1], **{"return": ["prediction", "h_n"]}) for n in range(6)))
    for n, (status, reply) in enumerate(replies):
        assert (status, reply["session"]["step"]) == (200, n + 1)
        assert_close(reply["h_n"], eager.run(two.model, x[: n + 1]).h_n, f"h_n after {n + 1} steps")
    assert position(service, "a") == 6


def test_requests_in_the_wrong_order_in_one_batch_are_not_put_right(two):
    service, x = make_service(two), two.sequence(2)
    (late, _), (first, _) = ask(service, step("a", 1, x[1:]), step("a", 0, x[:1]))
    assert (late, first) == (404, 200)
    assert position(service, "a") == 1


def test_duplicates_in_one_batch_are_applied_once(two, store):
    service, x = make_service(two, store=store), two.sequence(4)
    request = step("a", 0, x, **{"return": EVERYTHING})
    outcomes = service.handle_batch([orjson.dumps(request)] * 3)
    assert {fields(outcome.body) for outcome in outcomes} == {fields(outcomes[0].body)}
    assert [orjson.loads(outcome.body)["session"]["replayed"] for outcome in outcomes] == [False, True, True]
    assert position(service, "a") == 4


def test_a_session_without_an_id_gets_one_that_cannot_be_guessed(two):
    service, x = make_service(two), two.sequence(1)
    replies = ask(service, *[step(None, 0, x)] * 20, *[step(None, None, x)] * 20)
    ids = {reply["session"]["id"] for _, reply in replies}
    assert len(ids) == 40
    assert min(map(len, ids)) >= 22, "128 bits in base64"
    assert all(position(service, id) == 1 for id in ids)


def test_idle_time_is_counted_from_the_last_applied_step_and_not_from_a_replay(two):
    clock = Clock()
    service, x = make_service(two, clock=clock, session_ttl=100.0), two.sequence(2)
    first = answer(service, step("a", 0, x[:1]))["session"]["expires_at"]
    clock.now += 60
    assert answer(service, step("a", 0, x[:1]))["session"]["expires_at"] == first
    assert answer(service, step("a", 1, x[1:]))["session"]["expires_at"] != first
    clock.now += 60
    assert position(service, "a") == 2
