"""Requests: each field's errors name field, value, limit and remedy; nothing that can be sent gets past the parser unnoticed."""

import numpy as np
import orjson
import pytest
from hypothesis import given

from handlers import errors
from handlers.engine.request import Request
from handlers.errors import CellstateError
from handlers.protocols.native.decode import Parser
from handlers.sessions import state
from handlers.sessions.reference import SessionRef
from handlers.sessions.state import State
from handlers.settings import Settings
from tests.support.json_strategies import ANYTHING, bodies, requests
from tests.support.signatures import FIXED, KERNEL, METER, RETRAINED, TRAFFIC, WHOLE, WORDS

LIMITS = Settings(max_steps=4, max_instances=3, max_horizon=5, max_body=2_000)
ROW = [1.0, 2.0, 3.0]
STEP = {"inputs": [ROW]}
STATE = state.to_text(State(np.zeros(TRAFFIC.state_length, np.float32), 9, TRAFFIC.digest))
H, C = [[0.0] * 5] * 2, [[0.0] * 8] * 2


def parse(document, signature=TRAFFIC, limits=LIMITS):
    [request], _ = Parser(signature, limits).body(orjson.dumps(document))
    return request


def refused(document, signature=TRAFFIC, limits=LIMITS):
    error = parse(document, signature, limits)
    assert isinstance(error, CellstateError), f"expected an error, got {error}"
    return error


BODIES = {
    "not json": (b"{", "MalformedJson", ["body: ", "send one JSON object in UTF-8"]),
    "a field twice": (b'{"inputs": [[1, 2, 3]], "inputs": [[4, 5, 6]]}', "MalformedJson", ["the field 'inputs' is given twice"]),
    "a field of a session twice": (
        b'{"inputs": [[1, 2, 3]], "session": {"id": "a:b", "step": 1, "step": 2}}',
        "MalformedJson",
        ["the field 'step' is given twice"],
    ),
    "a field of an instance twice": (
        b'{"instances": [{"inputs": [[1, 2, 3]]}, {"inputs": [], "inputs": []}]}',
        "MalformedJson",
        ["the field 'inputs' is given twice"],
    ),
    "not utf-8": (b'{"inputs": "\xff"}', "MalformedJson", ["body: "]),
    "empty": (b"", "MalformedJson", ["body: "]),
    "NaN": (b'{"inputs": [[NaN, 0, 0]]}', "MalformedJson", ["NaN and Infinity are not JSON"]),
    "a list": (b"[]", "MalformedJson", ["expected a JSON object, got an empty list"]),
    "a number": (b"3", "MalformedJson", ["expected a JSON object, got a number"]),
    "too long": (b" " * 2_001, "TooLarge", ["body: 2001 bytes, at most 2000"]),
    "instances and more": (b'{"instances": [], "inputs": []}', "UnknownField", ["'inputs'", "known: instances"]),
    "no instances": (b'{"instances": []}', "InvalidInput", ["instances: ", "got an empty list"]),
    "instances of another kind": (b'{"instances": {}}', "InvalidInput", ["instances: ", "got an object"]),
    "too many instances": (b'{"instances": [1, 2, 3, 4]}', "TooLarge", ["instances: 4, at most 3"]),
}


@pytest.mark.parametrize(("body", "kind", "parts"), BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_no_request_says_why(body, kind, parts):
    [error], _ = Parser(TRAFFIC, LIMITS).body(body)
    assert type(error) is getattr(errors, kind)
    for part in parts:
        assert part in error.message


DEEP = {"lists": (b"[", b"]"), "objects": (b'{"a":', b"}"), "both": (b'[{"a":', b"}]")}


@pytest.mark.parametrize("depth", [300, 480, 500, 900, 960, 1_000, 1_020, 100_000])
@pytest.mark.parametrize(("opening", "closing"), DEEP.values(), ids=DEEP.keys())
def test_values_nested_to_any_depth_are_refused(opening, closing, depth):
    """Python's own stack ends before the depth that the JSON parser allows."""
    value = opening * depth + b"1" + closing * depth
    [error], _ = Parser(TRAFFIC, Settings()).body(b'{"inputs": %b, "session": "a:b"}' % value)
    assert error.code in ("malformed_json", "invalid_input")


def test_of_very_many_fields_the_one_that_is_there_twice_is_found():
    """Counting each of them among all others would keep a worker busy for an hour."""
    fields = b",".join(b'"%d":0' % i for i in range(400_000))
    [error], _ = Parser(TRAFFIC, Settings(max_body=10_000_000)).body(b"{%b,%b}" % (fields, b'"399999":0'))
    assert error.message == "body: the field '399999' is given twice in one object; send it once"


def session(**fields):
    return STEP | {"session": fields}


FIELDS = {
    "unknown field": ({"input": []}, "UnknownField", ["unknown field 'input'", "did you mean 'inputs'?"]),
    "unknown field, nothing near": ({"q": 1}, "UnknownField", ["'q'", "known: inputs, observations, return, state, session"]),
    "no inputs": ({}, "InvalidInput", ["inputs: missing", "T lists of 3 numbers (flow, hour, rain)", "traffic-1.0"]),
    "inputs of another kind": ({"inputs": "x"}, "InvalidInput", ["inputs: ", "got a string", "traffic-1.0"]),
    "no steps": ({"inputs": []}, "InvalidInput", ["inputs: ", "got an empty list"]),
    "too many steps": ({"inputs": [ROW] * 5}, "TooLarge", ["inputs: 5 steps, at most 4", "cut the sequence"]),
    "a row too short": (
        {"inputs": [ROW, ROW, ROW, [1, 2]]}, "InvalidInput", ["inputs[3]: expected 3 features, got 2 (signature traffic-1.0)"],
    ),
    "a row of another kind": ({"inputs": [ROW, 7]}, "InvalidInput", ["inputs[1]: expected 3 features, got a number"]),
    "null": ({"inputs": [[1, None, 3]]}, "InvalidInput", ["inputs[0][1]: expected a number, got null", "fill in"]),
    "true": ({"inputs": [[1, 2, True]]}, "InvalidInput", ["inputs[0][2]: expected a number, got true"]),
    "a number as text": ({"inputs": [["1", 2, 3]]}, "InvalidInput", ["inputs[0][0]: expected a number, got a string"]),
    "beyond float32": ({"inputs": [ROW, [1, -1e39, 3]]}, "InvalidInput", ["inputs[1][1]: -1e+39 is beyond float32"]),
    "return of another kind": (
        STEP | {"return": "state"}, "InvalidInput", ["return: expected a list", "prediction, output, h_n, c_n, state"],
    ),
    "return unknown": (STEP | {"return": ["h_0"]}, "InvalidInput", ["return: unknown 'h_0'", "known: prediction"]),
    "commit of another kind": (session(id="a") | {"commit": 0}, "InvalidInput", ["commit: expected true or false, got a number"]),
    "commit without a session": (STEP | {"commit": False}, "InvalidInput", ["commit: false needs a step of a session"]),
    "session of another kind": (STEP | {"session": 7}, "InvalidInput", ["session: expected an id or an object", "got a number"]),
    "session field unknown": (session(id="a", stp=1), "UnknownField", ["session: unknown field 'stp'", "did you mean 'step'?"]),
    "id empty": (STEP | {"session": ""}, "InvalidInput", ["session: expected 1 to 128", "got ''"]),
    "id too long": (session(id="x" * 129), "InvalidInput", ["session.id: expected 1 to 128", "…"]),
    "id with a space": (session(id="a b"), "InvalidInput", ["session.id: ", "'a b'"]),
    "id with a line end": (session(id="a\n"), "InvalidInput", ["session.id: ", r"'a\n'"]),
    "id of another alphabet": (session(id="é"), "InvalidInput", ["session.id: ", r"'\xe9'"]),
    "step of another kind": (session(id="a", step=1.0), "InvalidInput", ["session.step: expected an integer, got 1.0: write it"]),
    "step true": (session(id="a", step=True), "InvalidInput", ["session.step: expected an integer, got true"]),
    "step below zero": (session(id="a", step=-1), "InvalidInput", ["session.step: expected 0 to 9007199254740992, got -1"]),
    "step too large": (session(id="a", step=2**53 + 1), "InvalidInput", ["session.step: expected 0 to", "9007199254740993"]),
    "step without an id": (session(step=3), "InvalidInput", ["session.id: missing"]),
    "action unknown": ({"session": {"id": "a", "action": "reset"}}, "InvalidInput", ["session.action: expected one of", "'reset'"]),
    "action without an id": ({"session": {"action": "close"}}, "InvalidInput", ["session.id: missing"]),
    "action with inputs": (STEP | {"session": {"id": "a", "action": "close"}}, "InvalidInput", ["not part of the action 'close'"]),
    "action with a step": (
        {"session": {"id": "a", "action": "close", "step": 1}}, "InvalidInput", ["session.step: not part of the action"],
    ),
    "generation of another kind": (session(id="a", generation="1"), "InvalidInput", ["session.generation: expected an integer"]),
    "action with a generation": (
        {"session": {"id": "a", "action": "close", "generation": 1}}, "InvalidInput", ["session.generation: not part of the action"],
    ),
    "rewind to nowhere": ({"session": {"id": "a", "action": "rewind"}}, "InvalidInput", ["session.step, session.from: a rewind names"]),
    "from without a rewind": (session(id="a", **{"from": 3}), "InvalidInput", ["session.step, session.from: "]),
    "fork to nowhere": ({"session": {"id": "a", "action": "fork"}}, "InvalidInput", ["session.to: goes with the action 'fork'"]),
    "fork to itself": ({"session": {"id": "a", "action": "fork", "to": "a"}}, "InvalidInput", ["session.to: "]),
    "to without a fork": (session(id="a", to="b"), "InvalidInput", ["session.to: goes with the action 'fork'"]),
    "import of nothing": ({"session": {"id": "a", "action": "import"}}, "InvalidInput", ["state: goes with the action 'import'"]),
    "state with an export": ({"session": {"id": "a", "action": "export"}, "state": STATE}, "InvalidInput", ["state: goes with"]),
    "state amid a session": (session(id="a", step=4) | {"state": STATE}, "InvalidInput", ["state: a session keeps its own"]),
    "state of another kind": (STEP | {"state": 5}, "InvalidInput", ["state: expected the opaque string or an object of arrays"]),
    "state without c": (STEP | {"state": {"h_n": H}}, "InvalidInput", ["state: c_n missing", "h_n and c_n as they were returned"]),
    "state under the names of inputs": (STEP | {"state": {"h_0": H, "c_0": C}}, "UnknownField", ["state: unknown field 'h_0'"]),
    "state with rows missing": (STEP | {"state": {"h_n": H[:1], "c_n": C}}, "InvalidInput", ["state.h_n: expected 2 lists of 5 numbers"]),
    "state with h and c swapped": (STEP | {"state": {"h_n": C, "c_n": H}}, "InvalidInput", ["state.h_n[0]: expected 5 values, got 8"]),
    "state not a number": (STEP | {"state": {"h_n": [[None] * 5] * 2, "c_n": C}}, "InvalidInput", ["state.h_n[0][0]: expected a number"]),
    "state no string of ours": (STEP | {"state": "AAAA"}, "InvalidInput", ["state: not an intact state string"]),
    "state too long": (STEP | {"state": "A" * 1_500}, "TooLarge", ["state: 1500 characters"]),
    "horizon of another kind": (STEP | {"horizon": "2"}, "InvalidInput", ["horizon: expected an integer, got a string"]),
    "horizon below zero": (STEP | {"horizon": -2}, "InvalidInput", ["horizon: expected 0 to", "got -2"]),
    "horizon too far": (STEP | {"horizon": 6, "future": [[1, 2]] * 6}, "TooLarge", ["horizon: 6, at most 5"]),
    "horizon without a future": (STEP | {"horizon": 2}, "InvalidInput", ["future: missing", "2 lists of 2 numbers (hour, rain)"]),
    "future without a horizon": (STEP | {"future": [[1, 2]]}, "InvalidInput", ["future: goes with a horizon"]),
    "future too short": (STEP | {"horizon": 2, "future": [[1, 2]]}, "InvalidInput", ["future: expected 2 lists of 2", "got a list of 1"]),
    "future too narrow": (STEP | {"horizon": 1, "future": [[1]]}, "InvalidInput", ["future[0]: expected 2 features, got 1"]),
    "future of a model that needs none": (
        {"inputs": [1], "horizon": 1, "future": [[]], "session": "a"}, "InvalidInput", ["future: ", "leave it out"], METER,
    ),
    "horizon of a model that feeds nothing back": (
        {"inputs": [1], "horizon": 1}, "InvalidInput", ["horizon: words-1.0", "leave it out"], WORDS,
    ),
    "token too large": (
        {"inputs": [0, 11]}, "InvalidInput", ["inputs[1]: expected a token id from 0 to 10, got 11 (signature words-1.0)"], WORDS,
    ),
    "token below zero": ({"inputs": [-1]}, "InvalidInput", ["inputs[0]: ", "got -1"], WORDS),
    "token no integer": ({"inputs": [1.0]}, "InvalidInput", ["inputs[0]: ", "got 1.0"], WORDS),
    "token true": ({"inputs": [True]}, "InvalidInput", ["inputs[0]: ", "got True"], WORDS),
    "session of a model that cannot stream": (
        session(id="a"), "InvalidInput", ["whole-1.0 cannot stream (cut at [1]", "whole sequences"], WHOLE,
    ),
    "state of a model that cannot stream": (STEP | {"state": {"h_n": H, "c_n": C}}, "InvalidInput", ["whole-1.0 cannot stream"], WHOLE),
    "steps of a model of one length": (
        {"inputs": [ROW] * 2}, "InvalidInput", ["inputs: expected exactly 3 steps, got 2", "fixed-1.0"], FIXED,
    ),
    "fewer steps than a model can take": ({"inputs": [ROW]}, "InvalidInput", ["inputs: expected at least 2 steps, got 1"], KERNEL),
    "state of another model": (STEP | {"state": STATE}, "ModelChanged", ["another model than traffic-2.0"], RETRAINED),
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS.values(), ids=FIELDS.keys())
def test_a_field_that_is_wrong_is_named_with_value_limit_and_remedy(case):
    document, kind, parts, *signature = case
    error = refused(document, *signature)
    assert type(error) is getattr(errors, kind), error
    for part in parts:
        assert part in error.message


def test_a_colon_in_a_text_is_no_field():
    assert parse(session(id="site:meter:7")).session.id == "site:meter:7"


def test_a_message_never_repeats_a_long_value():
    error = refused(STEP | {"session": "?" * 1_500})
    assert len(error.message) < 300


def test_a_request_is_read_as_it_was_meant():
    request = parse(
        {"inputs": [ROW, ROW], "return": ["state", "prediction"], "session": {"id": "a", "step": 2}, "horizon": 1, "future": [[5, 6]],
         "commit": False}
    )  # fmt: skip
    assert isinstance(request, Request)
    assert (request.inputs.dtype, request.inputs.tolist()) == (np.float32, [ROW, ROW])
    assert (request.returns, request.horizon, request.commit) == (("prediction", "state"), 1, False)
    assert request.session == SessionRef("a", 2)
    assert request.future.tolist() == [[5, 6]]


def test_a_bare_list_is_enough_for_one_feature_and_for_tokens():
    assert parse({"inputs": [1, 2.5]}, METER).inputs.tolist() == parse({"inputs": [[1], [2.5]]}, METER).inputs.tolist() == [[1], [2.5]]
    tokens = parse({"inputs": [0, 10]}, WORDS).inputs
    assert (tokens.dtype, tokens.tolist()) == (np.int64, [0, 10])


def test_integers_of_any_size_that_json_has_are_numbers():
    assert parse({"inputs": [[2**64 - 1, -(2**63), 0]]}).inputs.tolist() == [[float(2**64), -float(2**63), 0.0]]


def test_a_state_as_arrays_and_as_a_string_are_one_state():
    h, c = np.arange(10, dtype=np.float32).reshape(2, 5), np.arange(16, dtype=np.float32).reshape(2, 8)
    string = state.to_text(State(np.concatenate([h.ravel(), c.ravel()]), 9, TRAFFIC.digest))
    as_arrays = parse(STEP | {"state": {"c_n": c.tolist(), "h_n": h.tolist()}}).state
    as_string = parse(STEP | {"state": string}).state
    assert as_arrays.values.tolist() == as_string.values.tolist()
    assert (as_arrays.position, as_string.position) == (0, 9)


def test_the_server_may_make_the_id():
    assert parse(session()).session == SessionRef()
    assert parse(session(step=0)).session == SessionRef(step=0)
    assert parse(STEP | {"session": {"step": 0}, "state": STATE}).session.id is None


def test_one_bad_instance_leaves_the_others_as_they_are():
    requests, is_batch = Parser(TRAFFIC, LIMITS).body(orjson.dumps({"instances": [STEP, {"inputs": []}, 3]}))
    assert [type(item).__name__ for item in requests] == ["Request", "InvalidInput", "InvalidInput"]
    assert "expected a request object, got a number" in requests[2].message
    assert is_batch


DIFFERENT = [
    STEP,
    {"inputs": [ROW, ROW]},
    {"inputs": [[1.0, 2.0, 4.0]]},
    STEP | {"return": ["output"]},
    STEP | {"return": []},
    STEP | {"horizon": 1, "future": [[1, 2]]},
    STEP | {"horizon": 1, "future": [[1, 3]]},
    STEP | {"horizon": 2, "future": [[1, 2], [1, 2]]},
    {"inputs": [ROW], "session": {"step": 0}, "state": STATE},
]


def test_a_retry_has_the_hash_of_its_original_and_nothing_else_has():
    hashes = [parse(document).request_hash() for document in DIFFERENT]
    assert hashes == [parse(dict(reversed(document.items()))).request_hash() for document in DIFFERENT]
    assert len(set(hashes)) == len(DIFFERENT)


def test_a_longer_forecast_is_another_request_even_where_nothing_is_known_in_advance():
    one, two = ({"inputs": [1], "horizon": n} for n in (1, 2))
    assert parse(one, METER).request_hash() != parse(two, METER).request_hash()


def test_actions_that_mean_different_things_have_different_hashes():
    forks = [{"id": id, "action": "fork", "to": "c"} for id in ("a", "b")]
    rewinds = [{"id": "a", "action": "rewind"} | more for more in ({"step": 1}, {"step": 2}, {"step": 1, "from": 4})]
    assert len({parse({"session": ref}).request_hash() for ref in (*forks, *rewinds)}) == 5


@pytest.mark.parametrize("signature", [TRAFFIC, METER, WORDS, WHOLE, FIXED], ids=lambda s: s.name)
def test_nothing_that_can_be_sent_raises_or_passes_unread(signature):
    parser = Parser(signature, LIMITS)

    @given(bodies(requests(len(signature.features) or 1)))
    def every_body_is_requests_or_refusals(body):
        parsed, _ = parser.body(body)
        assert parsed
        for item in parsed:
            assert isinstance(item, Request) or (isinstance(item, CellstateError) and item.status < 500)
            assert not isinstance(item, CellstateError) or orjson.dumps(item.body())

    every_body_is_requests_or_refusals()


@given(ANYTHING)
def test_whatever_stands_in_inputs_becomes_finite_rows_or_an_error(value):
    [item], _ = Parser(TRAFFIC, LIMITS).body(orjson.dumps({"inputs": value}))
    if isinstance(item, Request):
        assert item.inputs.shape[1:] == (3,)
        assert np.isfinite(item.inputs).all()
    else:
        assert isinstance(item, CellstateError)
