"""Whatever bytes arrive, the Open Inference Protocol's codec reads a request or says what is wrong with it."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import RequestError
from handlers.protocols.open_inference.binary import DATATYPES, HEADER_LENGTH
from handlers.protocols.open_inference.tensors import read_request
from tests.unit.test_open_inference import NUMPY, array_of, claim, raw_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=12,
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, -1, 2**31 - 1, 2**31, 2**63 - 1]), max_size=9)
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y", "", 1]) | JSON,
        "shape": SHAPES | JSON,
        "datatype": st.sampled_from([*DATATYPES, "BOOL", "fp32"]) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.sampled_from([0, 4, 8, 16, 2**31, -1, 2**63]) | JSON}) | JSON,
        "data": st.lists(st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=2), max_size=6) | JSON,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(INPUTS, max_size=3) | JSON},
    optional={"id": JSON, "parameters": JSON, "outputs": JSON, "model_name": JSON},
)


@given(DOCUMENTS | JSON, st.binary(max_size=40), st.sampled_from([0, 0, 0, -1, 1, 10**6, None]))
def test_any_document_is_a_request_or_an_error(document, raw, offset):
    header = json.dumps(document).encode()
    headers = {} if offset is None else {HEADER_LENGTH: str(len(header) + offset)}
    try:
        request = read_request(header + (b"" if offset is None else raw), headers)
    except RequestError:  # the client's fault, whatever it is
        return
    assert all(tensor.array.size for tensor in request.inputs.values())


@given(st.binary(max_size=80), st.none() | st.integers(0, 90).map(str) | st.text(max_size=4))
def test_any_bytes_are_a_request_or_an_error(body, length):
    with pytest.raises(RequestError):
        read_request(body, {} if length is None else {HEADER_LENGTH: length})


@given(st.data())
def test_any_tensor_that_is_honest_is_read(data):
    datatype = data.draw(st.sampled_from(DATATYPES))
    shape = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    count = int(np.prod(shape))
    if datatype == "BYTES":
        array = np.empty(count, object)
        array[:] = data.draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
        array = array.reshape(shape)
    else:
        array = np.array(data.draw(st.lists(st.integers(-100, 100), min_size=count, max_size=count))).astype(NUMPY[datatype]).reshape(shape)
    raw = raw_bytes(array, datatype)
    found = claim(len(raw), shape, datatype, raw).inputs["x"].array
    assert (found == (array.astype(np.float32) if datatype == "BF16" else array)).all()


def test_every_byte_of_a_body_matters():
    """Cut at each place, a body is refused; no cut makes another request of it."""
    raw = raw_bytes(array_of("BYTES"), "BYTES") + raw_bytes(array_of("FP16"), "FP16")
    sizes = [len(raw) - 12, 12]
    items = [
        {"name": name, "shape": [2, 3], "datatype": datatype, "parameters": {"binary_data_size": size}}
        for name, datatype, size in zip("ab", ("BYTES", "FP16"), sizes, strict=True)
    ]
    header = json.dumps({"inputs": items}).encode()
    body = header + raw
    for end, length in itertools.product(range(0, len(body), 7), (len(header), len(header) - 1)):
        with pytest.raises(RequestError):
            read_request(body[:end], {HEADER_LENGTH: str(length)})
    assert read_request(body, {HEADER_LENGTH: str(len(header))}).inputs
