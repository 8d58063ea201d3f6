"""Replies: compact JSON of our own, exact to the last bit of float32, and never a NaN."""

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import StepConflict
from handlers.inference.batching import Row
from handlers.protocols.native import encode as answers
from tests.support.signatures import TRAFFIC

ALL = ("prediction", "output", "h_n", "c_n", "state")
floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=26, max_size=26)


def finished(values):
    state = np.array(values, np.float32)
    return Row(np.zeros((2, 3), np.float32), state, True, y=state[:1], output=state[:10].reshape(2, 5))


@given(floats)
def test_every_float32_arrives_as_it_left(values):
    row = finished(values)
    reply = orjson.loads(b"{" + answers.result(row, row.output[:, :1], ALL, 2, TRAFFIC, b"") + b"}")
    assert list(reply) == ["prediction", "forecast", "output", "h_n", "c_n", "state"]
    state = np.concatenate([np.array(reply["h_n"], np.float32).ravel(), np.array(reply["c_n"], np.float32).ravel()])
    assert state.tobytes() == row.state.tobytes()
    assert np.array(reply["output"], np.float32).tobytes() == row.output.tobytes()
    assert np.array(reply["prediction"], np.float32).tobytes() == row.y.tobytes()
    assert (np.shape(reply["h_n"]), np.shape(reply["c_n"])) == ((2, 5), (2, 8))


def test_only_what_was_asked_for_is_said():
    assert answers.result(finished(range(26)), None, ("c_n",), 2, TRAFFIC, b"").startswith(b'"c_n":[[10.0,')
    assert answers.result(finished(range(26)), None, (), 2, TRAFFIC, b"") == b""


def test_a_response_is_fields_then_model_then_session():
    model = b'"model":{"name":"traffic","version":"1.0"}'
    assert answers.response(b'"prediction":[1.0]', TRAFFIC, None) == b'{"prediction":[1.0],' + model + b"}"
    assert answers.response(b"", TRAFFIC, {"id": "a"}) == b"{" + model + b',"session":{"id":"a"}}'


def test_predictions_are_the_replies_in_order():
    refusal = answers.refusal(StepConflict("m", expected=3))
    assert orjson.loads(answers.predictions([b'{"a":1}', refusal])) == {
        "predictions": [{"a": 1}, {"error": {"code": "step_conflict", "message": "m", "details": {"expected": 3}}}]
    }
