"""A reply that cannot be sent is refused with both numbers, whichever request it answers, and nothing is committed."""

from dataclasses import replace

import orjson
import pytest

from handlers.protocols.base import HttpRequest
from handlers.protocols.native import encode
from handlers.protocols.native.codec import NativeCodec
from handlers.settings import Settings
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, make_service, refusal
from tests.support.requests import EVERYTHING, act, contents, position, step
from tests.support.signatures import TRAFFIC

LARGE = {"return": ["output"]}
SMALL = 200  # bytes: less than any of the replies below, and enough for a prediction


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def roomy(two, store):
    """Session "a" is at step 8, and its last answer is large."""
    service = make_service(two, store=store, keep_versions=1)
    answer(service, step("a", 0, two.sequence(8), **LARGE))
    return service


@pytest.fixture
def tight(two, store, roomy):
    """The same sessions under a small limit, as after a change of settings."""
    return make_service(two, store=store, max_reply=SMALL, keep_versions=1)


AHEAD = {"horizon": 200, "future": [[0.5, 0.0]] * 200}
REQUESTS = {
    "a row": lambda x: {"inputs": x.tolist(), "return": EVERYTHING},
    "a forecast": lambda x: {"inputs": x.tolist()} | AHEAD,
    "a state": lambda x: {"inputs": x.tolist(), "return": ["state"]},
    "a first step": lambda x: step("new", 0, x, **LARGE),
    "a first step without an id": lambda x: step(None, 0, x, **LARGE),
    "a next step": lambda x: step("a", 8, x, **LARGE),
    "a next step, wherever the session is": lambda x: step("a", None, x, **LARGE),
    "a next step with a forecast": lambda x: step("a", 8, x, **AHEAD),
    "a what-if": lambda x: step("a", 8, x, commit=False, **LARGE),
    "an export": lambda x: act("a", "export"),
    "a repeat": lambda x: step("a", 0, x, **LARGE),
}
every_request = pytest.mark.parametrize("kind", REQUESTS)


def check(error):
    assert error["code"] == "too_large"
    assert error["message"].startswith("reply: ")
    assert f"at most {SMALL} here: send fewer steps or instances, or ask for less in return" in error["message"]


@every_request
def test_a_reply_over_the_limit_is_413_and_commits_nothing(two, store, tight, kind):
    before = contents(store)
    status, _, error = refusal(tight, REQUESTS[kind](two.sequence(8)))
    assert status == 413
    check(error)
    assert contents(store) == before


@every_request
def test_an_instance_over_its_share_fails_alone_and_commits_nothing(two, store, roomy, kind):
    """Two have the limit between them: what the one leaves over is not the other's."""
    service, x = make_service(two, store=store, max_reply=2 * SMALL), two.sequence(8)
    before = contents(store)
    other = step("other", 0, x[:1])
    large, small = answer(service, {"instances": [REQUESTS[kind](x), other]})["predictions"]
    check(large["error"])
    assert small["session"]["step"] == 1
    assert {key: entry for key, entry in contents(store).items() if not key.endswith(b"/other")} == before


@every_request
def test_what_was_refused_is_served_where_there_is_room(two, tight, roomy, kind):
    request = REQUESTS[kind](two.sequence(8))
    refusal(tight, request)
    reply = answer(roomy, request)
    assert ("session" in reply and reply["session"]["replayed"]) == (kind == "a repeat")


def test_a_batch_of_steps_of_one_session_goes_on_behind_the_one_that_was_too_large(two, tight):
    x = two.sequence(8)
    replies = ask(tight, step("a", 8, x[:1]), step("a", 9, x, **LARGE), step("a", 9, x[1:2]))
    assert [status for status, _ in replies] == [200, 413, 200]
    assert position(tight, "a") == 10


def test_the_limit_itself_is_allowed(two):
    x = two.sequence(3)
    [outcome] = make_service(two).handle_batch([orjson.dumps({"inputs": x.tolist()} | LARGE)])
    fragment = outcome.body[1 : outcome.body.index(b',"model"')]
    assert answer(make_service(two, max_reply=len(fragment)), {"inputs": x.tolist()} | LARGE)
    assert refusal(make_service(two, max_reply=len(fragment) - 1), {"inputs": x.tolist()} | LARGE)[0] == 413


def test_what_says_little_is_answered_under_any_limit(two, store, roomy):
    """Else a session could neither be looked at nor closed, and a lost answer to these never be had again."""
    held = answer(roomy, act("a", "export"))["state"]
    service = make_service(two, store=store, max_reply=1, keep_versions=1)
    for request in (
        act("a", "describe"),
        act("a", "fork", to="b"),
        act("c", "import", state=held),
        {"session": {"id": "a", "action": "rewind", "step": 0}},
        act("a", "close"),
        step("b", 8, two.sequence(1), **{"return": []}),
    ):
        assert answer(service, request)["session"]


REFUSED = (
    {},
    {"inputs": [[1, 2, 3]], "horizon": 1},
    {"x" * 900: 1},
    act("x" * 128, "close"),
    {"session": {"id": "x" * 128, "action": "fork", "to": "y" * 128}},
    {"inputs": [[1, 2, 3]], "session": {"id": "x" * 128, "step": 2**53}},
)


def total(codec, refused):
    """Bytes of a body's answer in which every instance was refused by the codec."""
    call = codec.decode(HttpRequest(orjson.dumps({"instances": [refused] * Settings().max_instances})))
    return len(call.respond(call.requests).body)


@pytest.mark.parametrize("refused", REFUSED, ids=["nothing", "no future", "an unknown field", "an action", "a fork", "a step"])
def test_refusals_have_room_within_the_hosts_limit(two, refused):
    most = Settings().max_instances
    [outcome] = make_service(two).handle_batch([orjson.dumps({"instances": [refused] * most})])
    assert len(outcome.body) <= 1_000 * most


@pytest.mark.parametrize("refused", [{}, {"inputs": [[0.0] * 3_001], "horizon": 1}], ids=["nothing", "no future"])
def test_refusals_of_a_model_of_many_features_have_room_too(refused):
    wide = replace(TRAFFIC, features=("flow", *(f"sensor_{n:05d}" for n in range(3_000))))
    assert total(NativeCodec(wide, Settings()), refused) <= 1_000 * Settings().max_instances


def unspeakable(*arguments, **named):
    raise RuntimeError("a defect of ours, while the reply is made")


CHANGES = {
    "a first step": lambda x: step("new", 0, x),
    "a next step": lambda x: step("a", 8, x),
    "a fork": lambda x: act("a", "fork", to="b"),
    "a rewind": lambda x: {"session": {"id": "a", "action": "rewind", "step": 0}},
    "an end": lambda x: act("a", "close"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_whose_reply_cannot_be_made_is_not_committed(two, store, roomy, monkeypatch, kind):
    before = contents(store)
    monkeypatch.setattr(encode, "encode_session", unspeakable)
    assert refusal(roomy, CHANGES[kind](two.sequence(1)))[0] == 500
    assert contents(store) == before
