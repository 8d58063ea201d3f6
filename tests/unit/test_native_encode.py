"""Replies of the native protocol: compact JSON of our own, exact to the last bit of float32, and never a NaN."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.engine.request import Result
from handlers.errors import StepConflict, TooLarge
from handlers.protocols.base import HttpRequest
from handlers.protocols.native.codec import NativeCodec
from handlers.protocols.native.encode import Encoder
from handlers.sessions.state import State
from handlers.sessions.status import SessionDescription, SessionStatus
from handlers.settings import Settings
from tests.support.signatures import TRAFFIC

ENCODER = Encoder(TRAFFIC)
MODEL = b'"model":{"name":"traffic","version":"1.0"}'
STATUS = SessionStatus("a", 3, 1_800_000_000.0, generation=2)
SESSION = b'"session":{"id":"a","step":3,"generation":2,"expires_at":"2027-01-15T08:00:00Z","replayed":false'
floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=26, max_size=26)


@given(floats)
def test_every_float32_arrives_as_it_left(values):
    state = np.array(values, np.float32)
    arrays = {"prediction": state[:1], "output": state[:10].reshape(2, 5), "h_n": np.asfortranarray(state[:10].reshape(2, 5))}
    reply = orjson.loads(ENCODER.response(ENCODER.fields(Result("1.0", arrays, State(state, 2, TRAFFIC.digest))), Result("1.0", {})))
    assert list(reply) == ["prediction", "output", "h_n", "state", "model"]
    for name, array in arrays.items():
        read = np.array(reply[name], np.float32)
        assert (read.shape, read.tobytes()) == (array.shape, array.tobytes())


def test_a_response_is_fields_then_model_then_session():
    result = Result("1.0", {"prediction": np.array([1.0], np.float32)}, session=STATUS)
    assert ENCODER.fields(result) == b'"prediction":[1.0]'
    assert ENCODER.response(b'"prediction":[1.0]', result) == b'{"prediction":[1.0],' + MODEL + b"," + SESSION + b"}}"
    assert ENCODER.response(b"", Result("1.0", {})) == b"{" + MODEL + b"}"


def test_the_version_is_that_of_the_model_that_answered():
    assert b'"version":"0.9"' in ENCODER.response(b"", Result("0.9", {}))


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (SessionStatus("a", 3, 1.8e9, 2, closed=True), {"closed": True}),
        (SessionStatus("a", 3, 1.8e9, 2, rewarmed=True, rebuilt="within 0.1"), {"rewarmed": True, "rebuilt": "within 0.1"}),
        (SessionStatus("a", 3, 1.8e9, 2, replayed=True), {"replayed": True}),
        (
            SessionStatus("a", 3, 1.8e9, 2, description=SessionDescription(1.8e9, 2, bytes(2), rewarm="off: why")),
            {"created_at": "2027-01-15T08:00:00Z", "last_step": 2, "model_digest": "0000", "rewarm": "off: why"},
        ),
    ],
    ids=["closed", "rewarmed", "replayed", "described"],
)
def test_a_session_says_more_where_there_is_more_to_say(status, more):
    plain = {"id": "a", "step": 3, "generation": 2, "expires_at": "2027-01-15T08:00:00Z", "replayed": False}
    assert orjson.loads(ENCODER.response(b"", Result("1.0", {}, session=status)))["session"] == plain | more


def call(body):
    return NativeCodec(TRAFFIC, Settings(max_reply=100)).decode(HttpRequest(body))


def test_predictions_are_the_replies_in_order():
    two = call(b'{"instances":[{"inputs":[[1,2,3]]},{"inputs":[[1,2,3]]}]}')
    response = two.respond([b'{"a":1}', StepConflict("m", expected=3)])
    assert response.status == 200
    assert orjson.loads(response.body) == {
        "predictions": [{"a": 1}, {"error": {"code": "step_conflict", "message": "m", "details": {"expected": 3}}}]
    }


def test_an_error_alone_has_its_status_and_a_phrase():
    response = call(b'{"inputs":[[1,2,3]]}').respond([StepConflict("m", expected=3)])
    assert (response.status, response.phrase, response.content_type) == (409, "Conflict", "application/json")


def test_a_reply_over_its_share_is_refused_with_both_numbers():
    one = call(b'{"inputs":[[1,2,3]]}')
    with pytest.raises(TooLarge, match="at most 100 here: send fewer steps or instances, or ask for less in return"):
        one.encode(Result("1.0", {"output": np.zeros((9, 5), np.float32)}))
