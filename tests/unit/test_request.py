"""The request hash: a field that it forgot would let a retry of one request be answered with the result of another."""

import numpy as np
import pytest
from msgspec.structs import fields, replace

from handlers.engine.request import Request
from handlers.sessions.reference import Action, SessionRef
from handlers.sessions.state import State

X, FUTURE = np.zeros((1, 3), np.float32), np.zeros((2, 2), np.float32)
STATE = State(np.zeros(4, np.float32), 0, bytes(16))
STEP = Request(X, session=SessionRef("a", 5, generation=0))
REWIND = Request(session=SessionRef("a", 5, Action.REWIND, from_step=7, generation=1))

# another value for every field; what is left out of the hash is compared by the session's rules, or names the session
OTHER_VALUES = {
    "inputs": X + 1,
    "returns": ("prediction", "state"),
    "state": STATE,
    "horizon": 2,
    "future": FUTURE,
    "session": None,
    "commit": False,
    "close": True,
    "missing": 1,
    "levels": (80,),
    "paths": 100,
    "times": np.zeros((1, 2), np.int64),
    "is_usual_step": True,
}
LEFT_OUT = {"session", "commit", "close", "missing", "is_usual_step"}
OTHER_REFERENCES = {"id": "b", "step": 6, "action": Action.FORK, "to": "c", "from_step": 8, "generation": 2, "restart": True}
LEFT_OUT_OF_A_STEP = {"id", "step", "to", "from_step", "generation", "restart"}
LEFT_OUT_OF_A_REWIND = {"to", "restart"}


def test_there_is_another_value_for_every_field():
    assert {field.name for field in fields(Request)} == set(OTHER_VALUES)
    assert {field.name for field in fields(SessionRef)} == set(OTHER_REFERENCES)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_field_but_those_left_out_changes_the_hash(name):
    other = replace(STEP, **{name: OTHER_VALUES[name]})
    assert (other.request_hash() == STEP.request_hash()) == (name in LEFT_OUT)


@pytest.mark.parametrize("name", OTHER_REFERENCES)
@pytest.mark.parametrize(("request_", "left_out"), [(STEP, LEFT_OUT_OF_A_STEP), (REWIND, LEFT_OUT_OF_A_REWIND)], ids=["step", "rewind"])
def test_every_field_of_a_reference_but_those_left_out_changes_the_hash(request_, left_out, name):
    other = replace(request_, session=replace(request_.session, **{name: OTHER_REFERENCES[name]}))
    assert (other.request_hash() == request_.request_hash()) == (name in left_out)


def test_values_that_are_equal_hash_equally():
    again = Request(X.copy(), session=SessionRef("a", 5, generation=0))
    assert again.request_hash() == STEP.request_hash()


def test_no_value_can_be_taken_for_the_one_beside_it():
    """Inputs and future of other lengths, and the same bytes in all."""
    values = np.arange(12, dtype=np.float32)
    one = Request(values[:6].reshape(2, 3), horizon=3, future=values[6:].reshape(3, 2))
    other = Request(values[:3].reshape(1, 3), horizon=3, future=values[3:].reshape(3, 3))
    assert one.request_hash() != other.request_hash()
