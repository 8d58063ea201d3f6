"""Absent, elsewhere, closed, expired: four situations, four answers; and none of them is a zero state."""

import pytest

from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, position, raw, step

TTL, TOMBSTONE = 100.0, 50.0


class Stage:
    """A service whose time the test moves, with session "a" at step 2."""

    def __init__(self, model):
        self.clock, self.store, self.x = Clock(), MemoryStore(), model.sequence(6)
        self.service = make_service(model, store=self.store, clock=self.clock, session_ttl=TTL, tombstone_ttl=TOMBSTONE, sweep_interval=1e9)
        answer(self.service, step("a", 0, self.x[:2]))

    def next(self, at=2):
        return refusal(self.service, step("a", at, self.x[2:3]))[:2]


@pytest.fixture
def stage(two):
    return Stage(two)


def test_the_four_answers(two, stage):
    assert refusal(stage.service, step("never", 2, stage.x[:1]))[:2] == (404, "session_not_found")
    assert stage.next(at=1) == (409, "step_conflict")
    stage.clock.now += TTL + 1
    assert stage.next() == (410, "session_expired")
    closed = Stage(two)
    answer(closed.service, act("a", "close"))
    assert closed.next() == (410, "session_closed")


@pytest.mark.parametrize("at", [None, 1, 7], ids=["without a step", "amid", "far"])
def test_an_unknown_session_is_never_served_from_zero(two, at):
    store = MemoryStore()
    status, code, error = refusal(make_service(two, store=store), step("a", at, two.sequence(1)))
    assert (status, code, error["details"]) == (404, "session_not_found", {"session": "a"})
    assert 'start it with "step": 0' in error["message"]
    assert contents(store) == {}


@pytest.mark.parametrize("action", ["describe", "export", "close", "fork"])
def test_an_action_gets_the_same_four_answers(two, stage, action):
    request = act("a", action, **({"to": "b"} if action == "fork" else {}))
    assert refusal(stage.service, request | {"session": request["session"] | {"id": "never"}})[1] == "session_not_found"
    stage.clock.now += TTL + 1
    assert refusal(stage.service, request)[1] == "session_expired"
    closed = Stage(two)
    answer(closed.service, act("a", "close"))
    if action != "close":  # to close what is closed is no mistake
        assert refusal(closed.service, request)[1] == "session_closed"


def test_a_session_lives_to_the_second_it_was_promised(stage):
    stage.clock.now += TTL
    assert position(stage.service, "a") == 2
    stage.clock.now += 0.001
    assert position(stage.service, "a") == "session_expired"


@pytest.mark.parametrize("swept", [False, True], ids=["no sweep came by", "swept"])
def test_after_its_tombstone_a_session_is_absent(stage, swept):
    stage.clock.now += TTL + TOMBSTONE + 1
    if swept:
        assert len(stage.store.sweep(stage.clock.now, 100).removed) == 1
    assert stage.next() == (404, "session_not_found")
    assert answer(stage.service, step("a", 0, stage.x[:1]))["session"] | {"expires_at": ""} == {
        "id": "a", "step": 1, "expires_at": "", "replayed": False, "generation": 0,
    }  # fmt: skip


def test_no_sweep_takes_a_tombstone_before_its_time(stage):
    stage.clock.now += TTL + TOMBSTONE
    assert not stage.store.sweep(stage.clock.now, 100).removed
    assert stage.next() == (410, "session_expired")


def test_an_expired_session_may_start_anew_at_once_from_zero(two, stage):
    stage.clock.now += TTL + 1
    reply = answer(stage.service, step("a", 0, stage.x[3:4], **{"return": ["h_n"]}))
    assert_close(reply["h_n"], eager.run(two.model, stage.x[3:4]).h_n, "h_n of a stream that started anew")
    assert stage.next(at=5) == (409, "step_conflict")


def test_a_closed_session_stays_closed_for_its_tombstones_time(stage):
    assert answer(stage.service, act("a", "close"))["session"]["closed"] is True
    assert refusal(stage.service, step("a", 0, stage.x[3:4]))[:2] == (410, "session_closed")
    stage.clock.now += TOMBSTONE + 1
    assert answer(stage.service, step("a", 0, stage.x[3:4]))["session"]["step"] == 1


def test_the_last_step_is_answered_again_even_after_a_close(stage):
    """Its first answer may have been lost on the way."""
    request = step("a", 2, stage.x[2:3])
    original = raw(stage.service, request)
    answer(stage.service, act("a", "close"))
    session = answer(stage.service, request)["session"]
    assert (session["step"], session["replayed"], session["closed"]) == (3, True, True)
    assert raw(stage.service, request).startswith(original[: original.index(b'"model"')])


def test_the_service_sweeps_while_it_serves(two):
    clock, store = Clock(), MemoryStore()
    service = make_service(two, store=store, clock=clock, session_ttl=10.0, tombstone_ttl=5.0, sweep_interval=1.0, sweep_slice=3)
    ask(service, *(step(f"s{n}", 0, two.sequence(1)) for n in range(8)))
    left = []
    clock.now += 16
    for _ in range(5):
        answer(service, {"inputs": two.sequence(1).tolist()})
        left.append(len(contents(store)))
        clock.now += 1.0
    assert left == [5, 2, 0, 0, 0]
