"""Two servers over one Valkey: whichever takes a step, and whoever else takes it at once, it is applied once and equals the offline run."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import orjson
import pytest

from handlers.stores.valkey import ValkeyStore
from tests.conftest import answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.proxy import cutting
from tests.support.requests import act, fields, position, raw, step
from tests.support.valkey_server import shared_database, shared_store

STEPS = 40


@pytest.fixture
def stores(valkey, tmp_path):
    """Two connections to the same sessions, as two machines have them."""
    with closing(shared_store(tmp_path)) as one, closing(shared_store(tmp_path)) as other:
        yield one, other


@pytest.fixture
def servers(two, stores):
    """The second one runs the same model in the other runtime."""
    return [make_service(two, backend, store, time.time) for backend, store in zip(("onnxruntime", "torchscript"), stores, strict=True)]


def test_a_session_that_goes_from_server_to_server_is_one_stream(two, servers):
    x = two.sequence(STEPS)
    for n in range(STEPS):
        reply = answer(servers[n % 2], step("a", n, x[n : n + 1], **{"return": ["prediction", "h_n", "c_n"]}))
        assert (reply["session"]["step"], reply["session"]["replayed"]) == (n + 1, False)
        expected = eager.run(two.model, x[: n + 1])
        for name in ("prediction", "h_n", "c_n"):
            assert_close(reply[name], getattr(expected, name), f"{name} after {n + 1} steps")
    assert [position(server, "a") for server in servers] == [STEPS, STEPS]


def test_what_one_server_answered_the_other_answers_again_byte_for_byte(two, servers):
    request = step("a", 0, two.sequence(3))
    original = raw(servers[0], request)
    again = raw(servers[1], request)
    assert fields(again) == fields(original)
    assert orjson.loads(again)["session"]["replayed"]


def test_a_step_sent_to_both_at_once_is_applied_once(two, servers):
    x = two.sequence(STEPS)
    together = threading.Barrier(2)

    def send(server, request):
        together.wait(60)
        return raw(server, request)

    with ThreadPoolExecutor(2) as pool:
        for n in range(STEPS):
            request = step("a", n, x[n : n + 1], **{"return": ["prediction", "h_n"]})
            one, other = pool.map(send, servers, [request, request])
            assert fields(one) == fields(other), f"step {n}"
            assert sorted(orjson.loads(body)["session"]["replayed"] for body in (one, other)) == [False, True], f"step {n}"
    assert [position(server, "a") for server in servers] == [STEPS, STEPS]
    assert_close(orjson.loads(one)["h_n"], eager.run(two.model, x).h_n, "h_n after all steps")


def test_two_who_disagree_on_the_next_step_are_told_so(two, servers):
    """One of them wins each step; the other gets the position to go on from, and nothing of its own is mixed in."""
    streams, together = [two.sequence(STEPS, seed) for seed in (1, 2)], threading.Barrier(2)

    def send(server, request):
        together.wait(60)
        return ask(server, request)[0]

    taken = []
    with ThreadPoolExecutor(2) as pool:
        for n in range(STEPS):
            results = list(pool.map(send, servers, [step("a", n, x[n : n + 1]) for x in streams]))
            [winner] = [i for i, (status, _) in enumerate(results) if status == 200]
            status, reply = results[1 - winner]
            assert (status, reply["error"]["details"].get("expected")) == (409, n + 1)
            taken.append(streams[winner][n])
    reply = answer(servers[0], act("a", "export"))
    state = answer(servers[1], {"inputs": streams[0][:1].tolist(), "state": reply["state"], "return": ["h_n"]})
    assert_close(state["h_n"], eager.run(two.model, [*taken, streams[0][0]]).h_n, "h_n one step after the steps that won")


def test_many_sessions_in_crossing_batches_of_both(two, servers):
    """Each server sends all sessions' next step in one batch, in its own order, at once: no session is lost, stuck or advanced twice."""
    ids, x = [f"s{n}" for n in range(12)], two.sequence(10)
    together = threading.Barrier(2)

    def send(server, order, n):
        together.wait(60)
        return ask(server, *(step(id, n, x[n : n + 1]) for id in order))

    with ThreadPoolExecutor(2) as pool:
        for n in range(len(x)):
            results = pool.map(send, servers, [ids, ids[::-1]], [n, n])
            replies = [reply for result in results for status, reply in result if status == 200]
            assert len(replies) == 2 * len(ids)
            assert sum(not reply["session"]["replayed"] for reply in replies) == len(ids), f"step {n}"
    predictions = [reply["prediction"] for reply in replies]
    expected = eager.run(two.model, x).prediction
    for prediction in predictions:
        assert_close(prediction, expected, "prediction after all steps")


@pytest.mark.parametrize(("how", "replayed"), [("nothing", False), ("all", True)])
def test_a_step_whose_commit_met_a_broken_connection_is_safe_to_send_again(two, valkey, stores, tmp_path, how, replayed):
    x = two.sequence(2)
    direct = make_service(two, store=stores[0], clock=time.time)
    answer(direct, step("a", 0, x[:1]))
    with cutting(valkey.port) as proxy, closing(ValkeyStore(f"valkey://127.0.0.1:{proxy.port}/{shared_database(tmp_path)}")) as store:
        service = make_service(two, store=store, clock=time.time)
        position(service, "a")
        proxy.cut(b"EVALSHA", how)
        status, code, error = refusal(service, step("a", 1, x[1:]))
        assert (status, code, error["retryable"]) == (503, "store_unavailable", True)
        assert "send the same step again" in error["message"]
        assert position(direct, "a") == 1 + replayed
        reply = answer(service, step("a", 1, x[1:]))
        assert (reply["session"]["step"], reply["session"]["replayed"]) == (2, replayed)
        assert_close(reply["prediction"], eager.run(two.model, x).prediction, "prediction of the step that was sent twice")


def test_a_tombstone_and_its_end_are_the_same_for_both(two, valkey, stores):
    lives = {"session_ttl": 0.5, "tombstone_ttl": 1.5}
    one, other = (make_service(two, store=store, clock=time.time, **lives) for store in stores)
    answer(one, step("a", 0, two.sequence(1)))
    seen, deadline = [], time.monotonic() + 30
    while not seen or seen[-1] != "session_not_found":
        assert time.monotonic() < deadline
        code = position(other, "a")
        seen += [code] if code not in seen else []
    assert seen == [1, "session_expired", "session_not_found"]
    while stores[1].get_many([b"two/a"]) != [None]:  # and then the server has forgotten it, with no sweep
        assert time.monotonic() < deadline
