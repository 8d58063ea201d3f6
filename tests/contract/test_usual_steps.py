"""Usual steps are served together, as columns. The answers and the records are those of each step served by itself."""

import json
import logging
import random
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from handlers.engine import step_columns, usual_steps
from handlers.errors import StoreUnavailable
from handlers.inference import batching
from handlers.inference.backends.base import BackendError
from handlers.protocols.base import HttpRequest
from handlers.sessions.record import Record
from handlers.stores.memory import MemoryStore
from tests.conftest import STREAMING, Clock, ask, assert_close, difference, make_service
from tests.support import eager
from tests.support.faulty_store import AFTER, BEFORE, Faulty, insist, once
from tests.support.open_inference_client import infer, texts
from tests.support.requests import act, position, step
from tests.support.store_wrappers import Overtaken
from tests.support.usual_steps import Alone

SESSIONS = 24
SECONDS = 86_400.0


def drawn(draw, model, at, generation):
    """One request: mostly the next step of a session, in one of its forms; now and then anything else."""
    id, steps = f"s{draw.randrange(SESSIONS)}", draw.choice([1, 1, 1, 2])
    x = model.sequence(steps, seed=draw.randrange(1000)).tolist()
    session = {"id": id, "step": at.get(id, 0)} | draw.choice([{}, {}, {"generation": generation.get(id, 0)}])
    usual = {"inputs": x, "session": draw.choice([session, session, session, id if id in at else session])}
    odd = [
        {"inputs": x},
        {"inputs": x, "session": session, "return": ["prediction", "h_n"]},
        {"inputs": x, "session": session, "return": ["prediction"]},
        {"inputs": x, "session": session, "commit": False},
        {"inputs": x, "session": {"id": id, "step": draw.randint(0, 9)}},
        {"inputs": x, "session": {"id": id, "step": at.get(id, 0), "generation": draw.randint(0, 2)}},
        {"session": {"id": id, "action": draw.choice(["describe", "close", "export"])}},
        {"session": {"id": id, "action": "fork", "to": f"s{draw.randrange(SESSIONS)}"}},
        {"session": {"id": id, "action": "rewind", "step": at.get(id, 0)}},
        {"inputs": [], "session": session},
        {"inputs": x, "session": {"id": "no id!", "step": 0}},
    ]
    return usual if draw.random() < 0.85 else draw.choice(odd)


def followed(replies, at, generation):
    """Remember where the sessions are."""
    for status, reply in replies:
        session = reply.get("session")
        if status == 200 and session:
            at[session["id"]], generation[session["id"]] = session["step"], session["generation"]


def numbers_apart(reply):
    """A reply without its arrays, and the arrays."""
    names = ("prediction", "h_n", "state")
    return {name: value for name, value in reply.items() if name not in names}, [reply.get(name) for name in names[:2]]


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize(("seed", "rewarm_steps"), [(0, 0), (1, 0), (2, 5), (3, 1)])
def test_replies_and_records_are_those_of_steps_served_alone(exported, name, seed, rewarm_steps, together, monkeypatch):
    monkeypatch.setattr(usual_steps, "FEW", 2)
    model, draw, clock = exported(name), random.Random(seed), Clock()
    stores = MemoryStore(), MemoryStore()
    both, alone = (make_service(model, store=store, clock=clock, rewarm_steps=rewarm_steps) for store in stores)
    at, generation = {}, {}
    for _ in range(40):
        requests = [drawn(draw, model, at, generation) for _ in range(draw.randint(1, 30))]
        if draw.random() < 0.3:
            requests = [{"instances": requests}]
        replies, expected = ask(both, *requests), Alone(alone)(*requests)
        if "instances" in requests[0]:
            replies, expected = ([(200, row) for row in answers[0][1]["predictions"]] for answers in (replies, expected))
        for (status, reply), (should_be, like) in zip(replies, expected, strict=True):
            assert status == should_be
            (rest, arrays), (other_rest, other_arrays) = numbers_apart(reply), numbers_apart(like)
            assert rest == other_rest
            for array, other in zip(arrays, other_arrays, strict=True):
                assert (array is None) == (other is None)
                assert array is None or difference(array, other) < 1e-5
        followed(replies, at, generation)
        clock.now += draw.choice([0, 1, 60, SECONDS / 3])
    assert sum(together) > 60, "steps were served together"
    compare(*stores)


def compare(store, other):
    """The two hold the same sessions, each with an equal record."""
    found, like = dict(store.scan(b"")), dict(other.scan(b""))
    assert found.keys() == like.keys()
    for key, entry in found.items():
        record, expected = Record.decode(entry.value), Record.decode(like[key].value)
        assert entry.purge_at == like[key].purge_at
        assert record.closed or difference(record.state.values, expected.state.values) < 1e-5
        assert (record.state.position, record.state.digest) == (expected.state.position, expected.state.digest)
        names = ("created_at", "expires_at", "last_step", "last_hash", "last_generation", "version", "rewind_hash", "generation", "closed")
        assert [getattr(record, each) for each in names] == [getattr(expected, each) for each in names]
        assert len(record.answer) == len(expected.answer)
        assert len(record.state.forecast) == len(expected.state.forecast)
        assert record.state.recent == expected.state.recent


def steps(model, at, count=SESSIONS, seed=0):
    return [step(f"s{i}", at, model.sequence(1, seed=seed * 1000 + at * SESSIONS + i)) for i in range(count)]


@pytest.fixture
def begun(two):
    """A service whose sessions are at step 1."""
    service = make_service(two)
    assert {status for status, _ in ask(service, *steps(two, 0))} == {200}
    return service


def test_each_stream_is_the_offline_run(two, begun, together):
    for at in range(1, 30):
        replies = ask(begun, *steps(two, at))
    assert together == [SESSIONS] * 29
    for i, (_, reply) in enumerate(replies):
        x = np.concatenate([two.sequence(1, seed=at * SESSIONS + i) for at in range(30)])
        assert_close(reply["prediction"], eager.run(two.model, x).prediction, "the last prediction")


def test_a_step_that_is_sent_again_is_answered_from_its_record(two, begun, together):
    first, again = ask(begun, *steps(two, 1)), ask(begun, *steps(two, 1))
    assert together == [SESSIONS, 0]
    for (_, reply), (_, repeat) in zip(first, again, strict=True):
        assert repeat["session"].pop("replayed") is True
        assert reply["session"].pop("replayed") is False
        assert repeat == reply


@pytest.mark.parametrize("binary", [False, True])
def test_a_tensor_of_sessions_is_served_together(two, begun, together, binary):
    x = np.stack([two.sequence(1, seed=i) for i in range(SESSIONS)])
    names = [f"s{i}" for i in range(SESSIONS)]
    found = infer(begun, binary, inputs={"x": x, "session": texts(*names), "step": np.ones(SESSIONS, np.int64)})
    assert together == [SESSIONS]
    assert found.outputs["status"].tolist() == [200] * SESSIONS
    assert found.outputs["step"].tolist() == [2] * SESSIONS
    assert found.outputs["y"].shape[0] == SESSIONS
    for i in range(SESSIONS):
        both = np.concatenate([two.sequence(1, seed=i), x[i]])
        assert_close(found.outputs["y"][i], eager.run(two.model, both).prediction, "the prediction")


def test_a_body_of_tensors_beside_bodies_of_steps(two, begun, together):
    """Replies of calls of two kinds are encoded each as its own."""
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 1, 3], "data": [1, 2, 3, 4, 5, 6]},
        {"name": "session", "datatype": "BYTES", "shape": [2], "data": ["s0", "s1"]},
        {"name": "step", "datatype": "INT64", "shape": [2], "data": [1, 1]},
    ]
    bodies = [json.dumps({"inputs": inputs}).encode(), *[orjson.dumps(body) for body in map(plain, steps(two, 1)[2:])]]
    tensors, *others = begun.frontend.handle_batch([HttpRequest(body) for body in bodies])
    assert together == [SESSIONS]
    outputs = {output["name"]: output["data"] for output in orjson.loads(tensors.body)["outputs"]}
    assert outputs["step"] == [2, 2]
    assert [orjson.loads(response.body)["session"]["id"] for response in others] == [f"s{i}" for i in range(2, SESSIONS)]


def plain(request):
    return json.loads(orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY))


def test_where_the_runtime_fails_each_is_served_alone(two, begun, together, monkeypatch):
    def fail(*_):
        raise BackendError("no batch today")

    monkeypatch.setattr(batching, "run_alike", fail)
    assert {status for status, _ in ask(begun, *steps(two, 1))} == {200}
    assert together == []


@pytest.mark.parametrize("rewarm_steps", [0, 4])
@pytest.mark.parametrize("count", [1, SESSIONS])
def test_rows_that_are_no_numbers_are_refused_alone(two, together, monkeypatch, caplog, count, rewarm_steps):
    run_alike, run = batching.run_alike, batching.run
    service = make_service(two, rewarm_steps=rewarm_steps)
    ask(service, *steps(two, 0))

    def first_are_infinite(*given):
        found = run_alike(*given)
        found.finite = np.arange(len(found.y)) >= count
        return found

    def infinite(*given):
        found = run(*given)
        found.finite = [False] * len(found.finite)
        return found

    monkeypatch.setattr(batching, "run_alike", first_are_infinite)
    monkeypatch.setattr(batching, "run", infinite)
    replies = ask(service, *steps(two, 1))
    assert [reply["error"]["code"] for _, reply in replies[:count]] == ["non_finite_result"] * count
    assert [status for status, _ in replies[count:]] == [200] * (SESSIONS - count)
    assert sum(together) == SESSIONS - count
    assert not caplog.records
    assert position(service, "s0") == 1


def test_a_reply_that_is_too_long_is_refused_and_nothing_is_applied(two, together):
    service = make_service(two, max_reply=1_000)
    assert {status for status, _ in ask(service, *steps(two, 0))} == {200}
    long = [step(f"s{i}", 1, two.sequence(1, seed=i)) for i in range(SESSIONS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.frontend._native, "_max_reply", 10)
        assert {reply["error"]["code"] for _, reply in ask(service, *long)} == {"too_large"}
    assert sum(together) == 0
    assert position(service, "s3") == 1


def test_a_defect_leaves_the_steps_to_be_served_alone_and_is_logged(two, begun, together, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(step_columns, "records_after", broken)
    with caplog.at_level(logging.ERROR):
        assert {status for status, _ in ask(begun, *steps(two, 1))} == {200}
    assert "a defect" in caplog.text
    assert position(begun, "s0") == 2


def test_what_takes_too_long_is_refused_and_nothing_is_applied(two, together):
    service = make_service(two, batch_seconds=10.0)
    assert {status for status, _ in ask(service, *steps(two, 0))} == {200}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: float("inf")))
        assert {reply["error"]["code"] for _, reply in ask(service, *steps(two, 1))} == {"overloaded"}
    assert sum(together) == 0
    assert position(service, "s0") == 1


@pytest.mark.parametrize("fault", [BEFORE, AFTER])
def test_steps_survive_a_store_that_fails_at_the_commit(two, fault, together):
    service = make_service(two, store=Faulty(MemoryStore(), once(3, fault)))
    insist(service, *steps(two, 0))
    for at in range(1, 4):
        insist(service, *steps(two, at))
    assert len(together) >= 3
    assert {position(service, f"s{i}") for i in range(SESSIONS)} == {4}


def test_a_session_that_another_worker_changed_first_is_tried_again(two, together):
    """That worker applied the very step: the second attempt answers it from the record. Another's step is a conflict."""
    store = MemoryStore()
    begin, rival = make_service(two, store=store), make_service(two, store=store)
    ask(begin, *steps(two, 0))
    same, other = steps(two, 1)[0], step("s1", 1, two.sequence(1, seed=77))
    service = make_service(two, store=Overtaken(store, lambda: ask(rival, same, other)))
    replies = ask(service, *steps(two, 1))
    assert [status for status, _ in replies] == [200, 409] + [200] * (SESSIONS - 2)
    assert replies[0][1]["session"]["replayed"] is True
    assert {position(service, f"s{i}") for i in range(SESSIONS)} == {2}


def test_a_step_that_lost_is_not_answered_when_a_later_part_of_the_commit_fails(two, together):
    """A fork of a session that the batch has moved is committed after the rest, and fails here."""
    store = MemoryStore()
    x, begin = two.sequence(2), make_service(two, store=store)
    ask(begin, *steps(two, 0), step("z", 0, x[:1]))

    def away():
        raise StoreUnavailable("store: away")

    overtaken = Overtaken(store, lambda: ask(begin, step("s0", 1, two.sequence(1, seed=77))), away)
    batch = [*steps(two, 1), step("z", 1, x[1:], **{"return": ["h_n"]}), act("z", "fork", to="y")]
    first, *others, stepped, forked = ask(make_service(two, store=overtaken), *batch)
    assert (first[0], first[1]["error"]["code"]) == (503, "store_unavailable"), first
    assert {status for status, _ in [*others, stepped]} == {200}
    assert (forked[0], forked[1]["error"]["code"]) == (503, "store_unavailable"), forked


def test_a_first_step_of_another_length_leaves_the_others_together(two, begun, together):
    requests = [step("s0", 1, two.sequence(2)), *steps(two, 1)[1:]]
    assert {status for status, _ in ask(begun, *requests)} == {200}
    assert together == [SESSIONS - 1]
    assert [position(begun, id) for id in ("s0", "s1")] == [3, 2]


def test_two_steps_of_one_session_in_a_batch_are_applied_in_their_order(two, begun, together):
    more = step("s0", 2, two.sequence(1, seed=5))
    replies = ask(begun, *steps(two, 1), more)
    assert [status for status, _ in replies] == [200] * (SESSIONS + 1)
    assert together == [SESSIONS - 1]
    assert position(begun, "s0") == 3


def test_expired_sessions_are_not_stepped(two, together):
    clock = Clock()
    service = make_service(two, clock=clock, session_ttl=60.0)
    ask(service, *steps(two, 0))
    clock.now += 61
    assert {reply["error"]["code"] for _, reply in ask(service, *steps(two, 1))} == {"session_expired"}
    assert sum(together) == 0


@pytest.mark.parametrize(("idle", "expected"), [(60.0, "ok"), (60.001, "session_expired"), (-3600.0, "ok")])
@pytest.mark.parametrize("count", [SESSIONS, 1])
def test_sessions_expire_at_one_moment_however_they_are_served(two, together, idle, expected, count):
    """Also after the clock was set back, by which none is taken for expired."""
    clock = Clock()
    service = make_service(two, clock=clock, session_ttl=60.0)
    ask(service, *steps(two, 0))
    clock.now += idle
    replies = ask(service, *steps(two, 1, count))
    assert {reply.get("error", {"code": "ok"})["code"] for _, reply in replies} == {expected}
    assert sum(together) == (count if count > 1 and expected == "ok" else 0)


@pytest.mark.parametrize("settings", [{"keep_versions": 2}, {"keep_versions": 2, "rewarm_steps": 4}])
def test_sessions_that_keep_earlier_states_are_served_alone(two, together, settings):
    service = make_service(two, **settings)
    for at in range(3):
        assert {status for status, _ in ask(service, *steps(two, at))} == {200}
    assert together == []


@pytest.mark.parametrize(("before", "after"), [(0, 4), (4, 0), (4, 2), (4, 6)])
def test_sessions_whose_recent_inputs_are_kept_otherwise_are_served_alone_once(two, together, before, after):
    store = MemoryStore()
    for n in range(5):
        ask(make_service(two, store=store, rewarm_steps=before), *steps(two, n))
    together.clear()
    service = make_service(two, store=store, rewarm_steps=after)
    for n in (5, 6):
        assert {status for status, _ in ask(service, *steps(two, n))} == {200}
    assert together == [0, SESSIONS]
    record = Record.decode(next(store.scan(b""))[1].value)
    assert (record.state.recent.room, record.state.recent.known) == (after, min(after, 2 + min(before, 5))) if after else True
    assert (record.state.recent is None) == (after == 0)
