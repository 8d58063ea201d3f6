"""Whatever arrives in the Open Inference Protocol, plausible or not, is answered below 500 and in its form."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.protocols.base import HttpRequest
from tests.conftest import Exported, make_service
from tests.support.in_process import InProcess
from tests.support.json_strategies import ANYTHING
from tests.support.open_inference_client import HEADER_LENGTH, read, request

ODD = [0.0, 1.0, -3.5, 1e38, -1e38, np.nan, np.inf]
NAMES = ["x", "h_0", "c_0", "state", "time", "future", "session", "step", "generation", "y"]
TEXTS = [b"a", b"b", b"\xff", b"no id!", b"", b"2018-09-29T20:00:00", b"2018-09-29T21:00:00"]
OUTPUTS = ["y", "output", "h_n", "c_n", "state", "forecast", "lower", "times", "Y"]


def arrays(rows: int) -> st.SearchStrategy[np.ndarray]:
    """Tensors of shapes, values and datatypes that occur, in any place."""
    shapes = st.sampled_from([(rows, 2, 3), (rows, 1, 3), (rows, 2, 2), (2, rows, 8), (rows,), (rows, 1), (rows, 2), (1, 1, 1, 1)])
    number = shapes.map(np.zeros) | st.builds(np.full, shapes, st.sampled_from(ODD))
    text = st.builds(lambda shape, item: np.full(shape, item, object), shapes, st.sampled_from(TEXTS))
    whole = st.builds(np.full, shapes, st.sampled_from([0, 1, 2, 99, -1, 2**62]))
    return st.one_of(number.map(lambda array: array.astype(np.float32)), number, text, whole)


@st.composite
def requests(draw: st.DrawFn) -> HttpRequest:
    rows = draw(st.integers(1, 3))
    inputs = draw(st.dictionaries(st.sampled_from(NAMES), arrays(rows), max_size=5))
    if draw(st.booleans()):
        inputs["x"] = np.zeros((rows, 2, 3), np.float32)
    parameters = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "sequence_id": st.sampled_from([0, 1, "a", "", 2**63]) | ANYTHING,
                "sequence_start": st.booleans(),
                "sequence_end": st.booleans(),
                "step": st.integers(0, 4) | ANYTHING,
                "generation": st.integers(0, 2),
                "horizon": st.integers(0, 3) | ANYTHING,
                "levels": st.sampled_from(["80", "80,95", "0", 80]) | ANYTHING,
                "commit": st.booleans(),
            },
        )
    )
    outputs = draw(st.none() | st.lists(st.sampled_from(OUTPUTS), unique=True, max_size=4))
    finite = all(array.dtype == object or np.isfinite(array).all() for array in inputs.values())
    utf8 = not any(array.dtype == object and b"\xff" in array.ravel() for array in inputs.values())
    return request(draw(st.booleans()) or not (finite and utf8), outputs, inputs=inputs, **parameters)


@pytest.fixture(scope="module")
def service(two: Exported) -> InProcess:
    timed = replace(two, signature=replace(two.signature, frequency="1h", calendar={"derived": {"hour": {"of": "hour"}}}))
    return make_service(timed, keep_versions=2, max_reply=100_000)


@given(sent=st.lists(requests(), min_size=1, max_size=4))
def test_any_request_is_answered_in_the_protocol_s_form(service: InProcess, sent: list[HttpRequest]) -> None:
    for response in service.frontend.handle_batch(sent):
        assert response.status < 500, response.body
        answer = read(response.status, response.body, response.headers.get("Inference-Header-Content-Length"))
        assert set(answer.document) >= {"outputs"} if answer.status == 200 else set(answer.document) == {"error"}


@given(body=st.binary(max_size=60), length=st.integers(0, 70).map(str) | st.text(max_size=3))
def test_any_bytes_with_a_header_length_are_answered_in_the_protocol_s_form(service: InProcess, body: bytes, length: str) -> None:
    [response] = service.frontend.handle_batch([HttpRequest(body, {HEADER_LENGTH: length})])
    assert 400 <= response.status < 500
    assert set(read(response.status, response.body, None).document) == {"error"}
