"""What an operator is told of what happened: each request, step, session, conflict and failure counted once."""

from collections.abc import Mapping

import pytest

from handlers.metrics import PREFIX, Telemetry
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, answer, ask, make_service
from tests.support.requests import step
from tests.support.store_wrappers import Broken, Overtaken


class Watched:
    """A service and what it counted since the last look."""

    def __init__(self, model, store=None, **settings):
        self.model, self.clock, self.telemetry = model, Clock(), Telemetry(("two", "1.0"))
        self.store = store or MemoryStore()
        self.service = make_service(model, store=self.store, clock=self.clock, telemetry=self.telemetry, **settings)

    def counted(self) -> Mapping[str, float]:
        """`name{labels}` to value, of what is not zero."""
        return {
            "/".join([s.name.removeprefix(PREFIX), *(v for k, v in s.labels.items() if not k.startswith("model"))]): s.value
            for s in self.telemetry.take()
            if s.value
        }

    def asked(self, *requests) -> Mapping[str, float]:
        """What these add; times, batches and tenants aside."""
        self.counted()
        ask(self.service, *requests)
        return {name: value for name, value in self.counted().items() if not name.startswith(("stage_", "batch_", "sessions/", "tenant_"))}


@pytest.fixture
def watched(two):
    return Watched(two, keep_versions=4)


def session(id, action, **more):
    return {"session": {"id": id, "action": action, **more}}


def test_a_steps_way_is_counted_in_time_steps(watched):
    x = watched.model.sequence(9)
    assert watched.asked(step("a", 0, x[:2])) == {"requests_total/step/ok": 1, "steps_applied_total": 2, "sessions_created_total/step": 1}
    assert watched.asked(step("a", 2, x[2:5])) == {"requests_total/step/ok": 1, "steps_applied_total": 3}
    assert watched.asked(step("a", 2, x[2:5])) == {"requests_total/step/ok": 1, "steps_replayed_total": 3}
    assert watched.asked(step("a", 9, x[:4])) == {"requests_total/step/step_conflict": 1, "steps_refused_total/step_conflict": 4}
    assert watched.asked(step("a", 5, x[:1]) | {"commit": False}) == {"requests_total/step/ok": 1}


def test_a_session_is_counted_when_it_begins_and_when_it_ends(watched):
    x = watched.model.sequence(3)
    watched.asked(step("a", 0, x))
    state = answer(watched.service, session("a", "export"))["state"]
    assert watched.asked(session("a", "fork", to="b")) == {"requests_total/fork/ok": 1, "sessions_created_total/fork": 1}
    imported = watched.asked(session("c", "import") | {"state": state})
    assert imported == {"requests_total/import/ok": 1, "sessions_created_total/import": 1}
    assert watched.asked(session("a", "close")) == {"requests_total/close/ok": 1, "sessions_closed_total": 1}
    assert watched.asked(session("a", "close")) == {"requests_total/close/ok": 1}
    assert watched.asked(session("b", "describe")) == {"requests_total/describe/ok": 1}
    assert watched.asked(session("b", "rewind", step=3)) == {"requests_total/rewind/ok": 1}


def test_what_is_no_session_and_what_is_no_request_are_counted_as_such(watched):
    row = watched.model.sequence(1).tolist()
    assert watched.asked({"inputs": row}, b"{", {"inputs": [[1]]}, {"instances": [{"inputs": row}, {"inputs": row}]}) == {
        "requests_total/predict/ok": 3,
        "requests_total/unread/malformed_json": 1,
        "requests_total/unread/invalid_input": 1,
    }


def test_each_batch_is_one_observation_of_its_rows(watched):
    row = watched.model.sequence(1).tolist()
    watched.counted()
    ask(watched.service, *[{"inputs": row}] * 3)
    ask(watched.service, {"instances": [{"inputs": row}] * 5})
    seen = watched.counted()
    assert (seen["batch_rows_count"], seen["batch_rows_sum"], seen["batch_rows_bucket/4"], seen["batch_rows_bucket/8"]) == (2, 8, 1, 2)


def test_each_stage_is_measured_where_it_happens(watched):
    x = watched.model.sequence(2)
    watched.counted()
    ask(watched.service, step("a", 0, x))
    seen = watched.counted()
    assert {s: seen.get(f"stage_seconds_count/{s}") for s in ("decode", "read", "run", "encode", "commit")} == dict.fromkeys(
        ("decode", "read", "run", "encode", "commit"), 1
    )
    assert 0 < seen["stage_seconds_sum/run"] < 60
    ask(watched.service, step("a", 0, x))  # a replay runs nothing and commits nothing
    seen = watched.counted()
    assert [seen.get(f"stage_seconds_count/{s}") for s in ("decode", "read", "run", "encode", "commit")] == [1, 1, None, None, None]


def test_a_conflict_and_the_try_after_it_are_counted(two):
    rival = make_service(two, store=(store := MemoryStore()))
    x = two.sequence(2)
    overtaken = Overtaken(store, lambda: answer(rival, {"inputs": x[:1].tolist(), "session": "a"}))
    watched = Watched(two, overtaken)
    ask(rival, step("a", 0, x[:1]))
    assert watched.asked({"inputs": x[1:].tolist(), "session": "a"}) == {
        "requests_total/step/ok": 1,
        "steps_applied_total": 1,
        "commit_conflicts_total": 1,
        "retries_total": 1,
    }


@pytest.mark.parametrize("away", ["read", "commit", "usage"])
def test_a_failure_of_the_store_is_counted_by_what_failed(two, away):
    watched = Watched(two, Broken(MemoryStore(), away))
    assert watched.asked(step("a", 0, two.sequence(1))) == {
        "requests_total/step/store_unavailable": 1,
        "steps_refused_total/store_unavailable": 1,
        f"store_errors_total/{away}": 1,
    }


def test_sessions_are_counted_by_the_sweep_live_and_ended_and_gone(two):
    watched = Watched(two, session_ttl=10.0, tombstone_ttl=5.0, sweep_interval=1.0)
    ask(watched.service, *(step(f"s{n}", 0, two.sequence(1)) for n in range(5)), session("s0", "close"))

    def later(seconds):
        watched.clock.now += seconds
        watched.counted()
        answer(watched.service, {"inputs": two.sequence(1).tolist()})
        seen = watched.counted()
        return [seen.get(name, 0) for name in ("sessions/live", "sessions/ended", "sessions_expired_total")]

    assert later(1) == [4, 1, 0]
    assert later(10) == [0, 4, 0]  # the four have expired and still answer so; the tombstone of the closed one is gone
    assert later(6) == [0, 0, 4]


def test_who_is_given_up_was_tried_again_one_time_less_than_it_was_tried(two):
    x, store = two.sequence(1), MemoryStore()
    rival = make_service(two, store=store)
    ask(rival, step("a", 0, x))
    overtaken = Overtaken(store, *[lambda: answer(rival, {"inputs": x.tolist(), "session": "a"})] * 3)
    watched = Watched(two, overtaken, commit_attempts=3)
    seen = watched.asked({"inputs": x.tolist(), "session": "a"})
    assert (seen["requests_total/step/overloaded"], seen["commit_conflicts_total"], seen["retries_total"]) == (1, 3, 2)


def test_a_what_if_is_no_step_whatever_becomes_of_it(watched):
    x = watched.model.sequence(1)
    assert watched.asked(step("a", 3, x, commit=False)) == {"requests_total/step/session_not_found": 1}


def test_a_sweep_that_fails_is_counted(two):
    watched = Watched(two, Broken(MemoryStore(), "sweep"), sweep_interval=1.0)
    watched.clock.now += 2
    assert watched.asked({"inputs": two.sequence(1).tolist()}) == {"requests_total/predict/ok": 1, "store_errors_total/sweep": 1}
