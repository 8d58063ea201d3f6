"""The usual form of a request is decoded on a way of its own: to the same request, or to the same error."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.engine.request import Request
from handlers.errors import CellstateError
from handlers.protocols.native import usual
from handlers.protocols.native.decode import Parser
from handlers.protocols.native.usual_observations import UsualObservations
from handlers.settings import Settings
from handlers.signature import Signature
from tests.support.json_strategies import ANYTHING, IDS, NUMBERS, SMALL, bodies, requests
from tests.support.signatures import METER, TRAFFIC, WHOLE

HOURLY = replace(TRAFFIC, frequency="1h", calendar={"timezone": "America/Chicago", "derived": {"hour": {"of": "hour"}}}, input_limit=5e5)
LIMITS = Settings(max_steps=4, max_instances=3)
numbers = st.one_of(SMALL, SMALL, SMALL, NUMBERS)
inputs = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5)
sessions = st.fixed_dictionaries({"id": IDS}, optional={"step": st.integers(-1, 6), "generation": st.integers(0, 2), "from": ANYTHING})
returns = st.lists(st.sampled_from(["prediction", "h_n", "other"]), max_size=3)
steps = st.fixed_dictionaries({"inputs": inputs}, optional={"session": sessions, "return": returns, "commit": st.booleans()})


def described(item: Request | CellstateError) -> object:
    if isinstance(item, CellstateError):
        return item.body()
    assert item.inputs is None or item.inputs.dtype.isnative
    values = None if item.inputs is None else item.inputs.tobytes()
    ref = item.session
    session = ref and (ref.id, ref.step, ref.action, ref.to, ref.from_step, ref.generation, ref.restart)
    times = None if item.times is None else item.times.tolist()
    return values, item.request_hash(), item.returns, session, item.horizon, item.commit, item.missing, item.is_usual_step, times


def check_decoded_alike(sent: list[bytes], signature: Signature = TRAFFIC) -> None:
    parser = Parser(signature, LIMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usual, "read", lambda body: None)
        patch.setattr(UsualObservations, "read", lambda self, body: None)
        expected = [parser.body(body) for body in sent]
    for (items, is_batch), (others, was_batch) in zip(parser.bodies(sent), expected, strict=True):
        assert is_batch == was_batch
        assert list(map(described, items)) == list(map(described, others)), sent


@given(st.lists(st.one_of(bodies(steps), bodies(requests())), min_size=1, max_size=4))
def test_bodies_are_decoded_as_without_it(sent: list[bytes]) -> None:
    check_decoded_alike(sent)


times = st.sampled_from(
    ["2018-10-01T05:00:00", "2018-10-01T05:00:00-05:00", "2018-11-04T01:00:00", "2018-03-11T02:30:00", "now", "0001-01-01"]
)
measured = st.fixed_dictionaries({"time": times, "flow": numbers, "rain": numbers}, optional={"hour": numbers})
observed = st.fixed_dictionaries(
    {"observations": st.lists(measured, min_size=1, max_size=2), "session": st.one_of(IDS, sessions)}, optional={"return": returns}
)
simple = st.fixed_dictionaries({"time": st.just("2018-10-01T05:00:00"), "flow": st.integers(-(10**6), 10**6), "rain": SMALL})
simple_steps = st.fixed_dictionaries(
    {"observations": st.lists(simple, min_size=1, max_size=1), "session": st.fixed_dictionaries({"id": IDS})}
)


@example([b'{"inputs": [[0.0, 0.0, 500001]]}'])
@given(st.lists(st.one_of(bodies(simple_steps), bodies(observed), bodies(steps)), min_size=1, max_size=4))
def test_observations_are_decoded_as_without_it(sent: list[bytes]) -> None:
    check_decoded_alike(sent, HOURLY)


LITERALS = [
    *(
        "0",
        "-0",
        "-0.0",
        "1.0",
        "1e0",
        "1E+0",
        "1e-00",
        "01",
        "-01",
        "1.",
        ".5",
        "+1",
        "1e",
        "--1",
        "0x1",
        "1_0",
        "1e00001",
        "0e999",
        "1\x00",
    ),
    *(
        "1e400",
        "-1e400",
        "1e-400",
        "5e-324",
        "1e39",
        "3.4028235e38",
        "3.4028235677973366e38",
        "16777217",
        "9007199254740993",
        "1" + "0" * 400,
    ),
    *("9223372036854775808", "18446744073709551616", "-9223372036854775809", "1" * 308, "1" * 309, "1.00000005960464477539062"),
    *("NaN", "Infinity", "-Infinity", "nan", "null", "true", '"1"', "[1]", "{}", "[]", "", " 1", "\t1", "\x0b1", "\xa01", "\ufeff1"),
    *('"a"', '"a:b"', '"a\\u003ab"', '"\\u0061"', '"a\\/b"', '"é"', '"a\x01"', '"a\x7f"', '"a\n"', '""', '"a', '"\\ud800"', '"instances"'),
]
PLACES = [
    *("%s", '{"inputs": %s}', '{"inputs": [%s]}', '{"inputs": [[1, 2, %s]]}', '{"inputs": [[1, 2, %s], [1, 2, 3]], "session": "a:b"}'),
    *('{"inputs": [[1, 2, 3]], "session": %s}', '{"inputs": [[1, 2, 3]], "session": {"id": %s, "step": 1}}'),
    *('{"inputs": [[1, 2, 3]], "session": {"id": "a", "step": %s}}', '{"inputs": [[1, 2, 3]], "session": {"id": "a", "generation": %s}}'),
    *(
        '{"inputs": [[1, 2, 3]], "return": [%s]}',
        '{"inputs": [[1, 2, 3]], %s: 1}',
        '{"inputs": [[1, 2, 3]], "session": {"id": "a", %s: 1}}',
    ),
    *('{"instances": [{"inputs": [[1, 2, %s]]}, {"inputs": [[1, 2, 3]], "session": "a"}]}', '{"instances": [%s]}'),
    *('{"inputs": [[1, 2, 3]]}%s', '%s{"inputs": [[1, 2, 3]]}', '{"inputs": [[1, 2, 3],%s]}', '{"inputs": [[1, 2, 3]],%s}'),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("signature", [TRAFFIC, METER, WHOLE], ids=lambda signature: signature.name)
def test_texts_that_parsers_read_differently_are_decoded_as_without_it(place: str, signature: Signature) -> None:
    for literal in LITERALS:
        check_decoded_alike([(place % literal).encode()], signature)


OBSERVED = [
    *(
        '{"observations": [{"time": "2018-10-01T05:00:00", "flow": %s, "rain": 1}], "session": "a:b"}',
        '{"observations": [%s], "session": "a"}',
    ),
    *('{"observations": [{"time": %s, "flow": 1, "rain": 1}], "session": "a"}', '{"observations": %s, "session": "a"}'),
    *('{"observations": [{"time": "2018-10-01T05:00:00", "flow": 1, "rain": 1, %s: 1}], "session": "a"}', '{"instances": [%s]}'),
    *('{"observations": [{"time": "2018-10-01T05:00:00", "flow": 1, "rain": 1}], "session": %s}', '{"observations": [], "session": %s}'),
    '{"observations": [{"time": "2018-10-01T05:00:00", "flow": 1, "rain": 1}], "session": {"id": %s, "step": 0, "generation": 1}}',
    '{"observations": [{"time": "2018-10-01T05:00:00", "flow": 1, "rain": 1, "flow": 2}], "session": {"id": "a", "step": %s}}',
    '{"observations": [{"time": "2018-10-01T05:00:00", "flow": 1, "rain": 1}], "session": {"id": "a", "generation": %s}, "session": "a"}',
]


@pytest.mark.parametrize("place", OBSERVED)
def test_texts_with_observations_that_parsers_read_differently_are_decoded_as_without_it(place: str) -> None:
    for literal in [*LITERALS, '"2018-10-01"', '"2018-11-04T01:00:00-05:00"', '"flow"', '"hour"', '"time"', "500001"]:
        check_decoded_alike([(place % literal).encode()], HOURLY)


@pytest.mark.parametrize("names", [("flow", "a:b"), ("flow", 'a"b'), ("flow", "time"), ("flow", "é"), ("v1", "v0")])
def test_features_of_any_name_are_decoded_as_without_it(names: tuple[str, ...]) -> None:
    signature = replace(METER, features=names, feedback={"flow": names[0]}, frequency="1h", calendar={"derived": {}})
    body = {"observations": [{"time": "2018-10-01T05:00:00", names[0]: 1, names[1]: 2}], "session": "a"}
    check_decoded_alike([orjson.dumps(body), orjson.dumps({"instances": [body, body]})], signature)


def test_steps_of_one_observation_are_recognised_and_others_are_not() -> None:
    row = {"time": "2018-10-01T05:00:00", "flow": 1, "rain": 2.5}
    body = {"observations": [row], "session": {"id": "a:b", "step": 3, "generation": 0}}
    read = Parser(HOURLY, LIMITS).usual_observations
    assert read is not None
    assert read.read(orjson.dumps(body)) is not None
    assert read.read(orjson.dumps({"instances": [body, body | {"session": "c"}]})) is not None
    for odd in [body | {"observations": [row, row]}, body | {"return": ["prediction"]}, {"observations": [row]}]:
        assert read.read(orjson.dumps(odd)) is None


USUAL = {
    "a window": {"inputs": [[1, 2.5, -3], [4, 5, 6]]},
    "what to return": {"inputs": [[1, 2, 3]], "return": ["h_n"]},
    "a step": {"inputs": [[1, 2, 3]], "session": {"id": "a:b@c", "step": 3, "generation": 0}},
    "many": {"instances": [{"inputs": [[1, 2, 3]]}, {"inputs": [[1, 2, 3]], "session": {"id": "a"}}]},
}


@pytest.mark.parametrize("document", USUAL.values(), ids=USUAL.keys())
def test_the_usual_form_is_recognised(document: object) -> None:
    assert usual.read(orjson.dumps(document)) is not None


UNUSUAL = {
    "a field twice": b'{"inputs": [[1]], "inputs": [[1]]}',
    "a field twice, behind an escaped colon": b'{"inputs": [[1]], "inputs": [[2]], "session": {"id": "a\\u003ab"}}',
    "a field of a session twice": b'{"inputs": [[1]], "session": {"id": "a", "step": 1, "step": 2}}',
    "a field of an instance twice": b'{"instances": [{"inputs": [[1]], "inputs": [[1]]}]}',
    "instances twice": b'{"instances": [{"inputs": [[1]]}], "instances": [{"inputs": [[1]]}]}',
    "a step that is no integer": b'{"inputs": [[1]], "session": {"id": "a", "step": 1.0}}',
    "a step that is true": b'{"inputs": [[1]], "session": {"id": "a", "step": true}}',
    "a number that is true": b'{"inputs": [[true]]}',
    "a number in quotes": b'{"inputs": [["1"]]}',
    "a missing measurement": b'{"inputs": [[null]]}',
    "an action": b'{"session": {"id": "a", "action": "close"}}',
    "another field": b'{"inputs": [[1]], "horizon": 3}',
    "no UTF-8": b'{"inputs": [[1]], "session": {"id": "\xff"}}',
    "many brackets": b"[" * 100_000,
    "nothing": b"",
}


@pytest.mark.parametrize("body", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_any_other_form_is_left_to_the_parser(body: bytes) -> None:
    assert usual.read(body) is None


def test_the_integer_minus_0_is_0_on_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a step that is sent again beside an unusual neighbour would be another request."""
    body = b'{"inputs": [[-0, -0.0, 1]], "session": {"id": "a", "step": 1}}'
    [(usually, _)] = Parser(TRAFFIC, LIMITS).bodies([body])
    monkeypatch.setattr(usual, "read", lambda body: None)
    [(otherwise, _)] = Parser(TRAFFIC, LIMITS).bodies([body])
    hashes = [request.request_hash() for [request] in (usually, otherwise) if isinstance(request, Request)]
    assert len(hashes) == 2
    assert len(set(hashes)) == 1
