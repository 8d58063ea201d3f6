"""Each limit from both sides: what just fits is served, what is one beyond is refused with the limit in words, and nothing changed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from handlers.errors import ConfigurationError, InvalidInput
from handlers.protocols.native.decode import Parser, Request
from handlers.sessions import state
from handlers.sessions.record import Record
from handlers.sessions.state import MAX_POSITION, State
from handlers.settings import Settings
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, make_service, refusal
from tests.support.requests import act, contents, position, step
from tests.support.signatures import TRAFFIC

ROW = [[1.0, 2.0, 3.0]]
LONGEST = "x" * 128


@pytest.fixture
def store():
    return MemoryStore()


def held(model, at):
    """A state string at that position. Without a key a client can make one of any."""
    return state.to_text(State(model.signature.initial_state, at, model.signature.digest))


def refused(service, store, request, status, code, *words):
    """It is refused so, in these words, and the store is as it was."""
    before = contents(store)
    found, name, error = refusal(service, request)
    assert (found, name) == (status, code), error
    for word in words:
        assert word in error["message"]
    assert contents(store) == before


def row(steps=1, **more):
    return {"inputs": ROW * steps} | more


OVER = {
    "steps": ({"max_steps": 3}, row(3), row(4), "inputs: 4 steps, at most 3"),
    "steps of a session": ({"max_steps": 3}, row(3, session={"step": 0}), row(4, session={"step": 0}), "inputs: 4 steps, at most 3"),
    "instances": ({"max_instances": 2}, {"instances": [row()] * 2}, {"instances": [row()] * 3}, "instances: 3, at most 2"),
    "horizon": (
        {"max_horizon": 2}, row(horizon=2, future=[[0, 0]] * 2), row(horizon=3, future=[[0, 0]] * 3), "horizon: 3, at most 2",
    ),
    "horizon, far beyond": ({"max_horizon": 2}, row(horizon=2, future=[[0, 0]] * 2), row(horizon=2**53), "at most 2"),
    "body": ({"max_body": 100}, b'{"inputs":[[1,2,3]]}'.ljust(100), b'{"inputs":[[1,2,3]]}'.ljust(101), "body: 101 bytes, at most 100"),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "fits", "beyond", "words"), OVER.values(), ids=OVER.keys())
def test_a_limit_is_the_largest_that_is_served(two, store, settings, fits, beyond, words):
    service = make_service(two, store=store, **settings)
    refused(service, store, beyond, 413, "too_large", words)
    answer(service, fits)


def test_a_limit_holds_for_every_instance(two, store):
    service = make_service(two, store=store, max_steps=3)
    replies = answer(service, {"instances": [step("a", 0, two.sequence(4)), step("b", 0, two.sequence(3))]})["predictions"]
    assert [reply.get("error", {}).get("code") for reply in replies] == ["too_large", None]
    assert (position(service, "a"), position(service, "b")) == ("session_not_found", 3)


@pytest.mark.parametrize("depth", [1_000, 100_000, 1_900_000])
def test_json_of_any_depth_is_refused(two, store, depth):
    service = make_service(two, store=store)
    for body in (b"[" * depth + b"]" * depth, b'{"inputs":' * (depth // 5), b'{"state":' + b"[" * depth + b"]" * depth + b"}"):
        [(status, _)] = ask(service, body)
        assert status in (400, 422)


IDS = {
    "session": lambda id: row(session=id),
    "session.id": lambda id: row(session={"id": id, "step": 0}),
    "session.to": lambda id: act("a", "fork", to=id),
}


@pytest.mark.parametrize("name", IDS)
def test_an_id_has_at_most_128_characters_wherever_it_stands(two, store, name):
    service = make_service(two, store=store)
    answer(service, step("a", 0, two.sequence(1)))
    for id in (LONGEST + "x", "x" * 100_000, ""):
        refused(service, store, IDS[name](id), 422, "invalid_input", f"{name}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : @")
    if name == "session":
        answer(service, IDS["session.id"](LONGEST))
    assert answer(service, IDS[name](LONGEST))["session"]["id"] == LONGEST


def test_a_session_of_the_longest_name_is_kept_by_every_store(two, kind, tmp_path):
    store = kind.open(tmp_path)
    model = replace(two.signature, name="m" * 64)
    service = make_service(replace(two, signature=model), store=store)
    answer(service, step(LONGEST, 0, two.sequence(2)))
    assert position(service, LONGEST) == 2
    store.close()


NUMBERS = {
    "session.step": lambda n: row(session={"id": "a", "step": n}),
    "session.step of a rewind": lambda n: {"session": {"id": "a", "action": "rewind", "step": n}},
    "session.from": lambda n: {"session": {"id": "a", "action": "rewind", "step": 0, "from": n}},
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_position_is_at_most_2_to_the_53(two, store, name):
    service = make_service(two, store=store, keep_versions=1)
    answer(service, step("a", 0, two.sequence(1)))
    for beyond in (MAX_POSITION + 1, 2**63, 2**64 - 1, -1, -(2**63)):
        words = f"{name.partition(' ')[0]}: expected 0 to {MAX_POSITION}, got {beyond}"
        refused(service, store, NUMBERS[name](beyond), 422, "invalid_input", words)
    longer = json.dumps(NUMBERS[name](2**64)).encode()
    refused(service, store, longer, 422, "invalid_input", f"expected 0 to {MAX_POSITION}, got 1.84467e+19")
    assert "expected 0 to" not in refusal(service, NUMBERS[name](MAX_POSITION))[2]["message"], "a position, though not of this session"


def test_a_stream_ends_at_the_last_position_and_says_so(two, store):
    service = make_service(two, store=store)
    answer(service, act("a", "import", state=held(two, MAX_POSITION - 2)))
    refused(service, store, step("a", MAX_POSITION - 2, two.sequence(3)), 422, "invalid_input", f"last position, {MAX_POSITION}")
    assert answer(service, step("a", MAX_POSITION - 2, two.sequence(2)))["session"]["step"] == MAX_POSITION
    for last in (step("a", MAX_POSITION, two.sequence(1)), step("a", None, two.sequence(1))):
        refused(service, store, last, 422, "invalid_input", "start another stream")
    assert state.from_text(answer(service, act("a", "export"))["state"], two.signature).position == MAX_POSITION


def test_a_row_from_a_state_at_the_last_position_is_refused(two, store):
    refused(make_service(two, store=store), store, row(state=held(two, MAX_POSITION)), 422, "invalid_input", str(MAX_POSITION))


def test_the_largest_input_is_the_one_that_the_model_was_found_right_for():
    parser = Parser(replace(TRAFFIC, input_limit=100.0), Settings())
    for field, request in {"inputs": {"inputs": [[1, -100, 100]]}, "future": row(horizon=1, future=[[100, -100]])}.items():
        assert isinstance(parser.request(request), Request)
        request[field] = [[*request[field][0][:-1], -100.01]]
        with pytest.raises(InvalidInput, match=rf"^{field}\[0\]\[\d\]: -100.01 is beyond ±1e\+02, up to which this model was found right"):
            parser.request(request)


def test_as_many_states_are_kept_as_can_be_configured_and_no_more(two, store):
    most = 255
    service = make_service(two, store=store, keep_versions=most)
    replies = ask(service, *(step("a", n, two.sequence(1, n)) for n in range(most + 5)))
    assert [status for status, _ in replies] == [200] * (most + 5)
    refused(service, store, {"session": {"id": "a", "action": "rewind", "step": 4}}, 422, "invalid_input", "4 is not kept; kept: 260, 259")
    assert answer(service, {"session": {"id": "a", "action": "rewind", "step": 5}})["session"]["step"] == 5
    with pytest.raises(ConfigurationError, match="keep_versions: at most 255, got 256"):
        Settings.read({"keep_versions": most + 1}, {})


def test_a_record_keeps_as_many_inputs_as_are_configured_and_no_more(two, store):
    service = make_service(two, store=store, rewarm_steps=4)
    for start, stop in ((0, 2), (2, 5), (5, 12)):
        answer(service, step("a", start, two.sequence(12)[start:stop]))
        [entry] = contents(store).values()
        recent = Record.decode(entry.value).state.recent
        assert len(recent.rows) == 4
        assert np.array_equal(recent.inputs, two.sequence(12)[max(0, stop - 4) : stop])


def test_the_hosts_own_limits_lie_above_ours():
    """Beyond the host's limit a request is refused without a word of ours, and a reply ends the worker."""
    text = (Path(__file__).parents[2] / "config" / "config.properties").read_text()
    host = dict(line.split("=", 1) for line in text.splitlines() if line[:1].isalpha())
    ours = Settings()
    assert int(host["max_request_size"]) > ours.max_body
    assert int(host["max_response_size"]) > ours.max_reply + 1_000 * ours.max_instances
    assert int(host["default_response_timeout"]) > ours.batch_seconds


def test_a_batch_of_the_largest_bodies_is_answered_body_by_body(two, store):
    service = make_service(two, store=store)
    body = orjson.dumps(row(10_000)).ljust(Settings().max_body)
    assert [status for status, _ in ask(service, body, body + b" ", row())] == [200, 413, 200]


def test_a_time_that_no_calendar_has_refuses_to_start():
    with pytest.raises(ConfigurationError, match="session_ttl"):
        Settings.read({"session_ttl": 1e12}, {})
