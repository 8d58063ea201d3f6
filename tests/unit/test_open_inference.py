"""The Open Inference Protocol's bodies: tensors in JSON and as raw bytes, and every way in which a length, a shape or a type can lie."""

import json
import struct

import ml_dtypes
import numpy as np
import orjson
import pytest

from handlers.errors import InvalidInput, MalformedJson, UnknownField
from handlers.protocols.open_inference import binary
from handlers.protocols.open_inference.binary import DATATYPES, HEADER_LENGTH
from handlers.protocols.open_inference.tensors import read_request

NUMPY = {"FP64": np.float64, "FP32": np.float32, "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "INT64": np.int64, "INT32": np.int32}
X = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, 3, 4]}


def raw_bytes(array, datatype):
    """An array as the extension writes it."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())
    return array.astype(np.dtype(NUMPY[datatype]).newbyteorder("<")).tobytes()


def with_binary(document, raw):
    """A body with its header's length."""
    header = json.dumps(document).encode()
    return read_request(header + raw, {HEADER_LENGTH: str(len(header))})


def as_json(**fields):
    return read_request(orjson.dumps({"inputs": [X]} | fields), {})


def array_of(datatype, shape=(2, 3)):
    values = [0, 1, -2, 3, 5, 100]
    if datatype == "BYTES":
        array = np.empty(6, object)
        array[:] = [b"", b"a", "é".encode(), b"\xff\x00", b"meter-7", b"x" * 300]
        return array.reshape(shape)
    return np.array(values).astype(NUMPY[datatype]).reshape(shape)


# Tensors.


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_bytes_are_read_as_any_datatype(datatype):
    array = array_of(datatype)
    raw = raw_bytes(array, datatype)
    item = {"name": "x", "shape": [2, 3], "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    found = with_binary({"inputs": [item]}, raw).inputs["x"]
    assert (found.datatype, found.array.shape) == (datatype, (2, 3))
    assert (found.array == (array.astype(np.float32) if datatype == "BF16" else array)).all()
    assert found.array.dtype == {"BF16": np.float32, "BYTES": object}.get(datatype, NUMPY.get(datatype))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_json_data_is_read_flat_or_nested(datatype, nested):
    array = np.array([["a", "é"], ["", "b"]], object) if datatype == "BYTES" else np.array([[0, 1], [-2, 3]])
    data = array.tolist() if nested else array.ravel().tolist()
    found = as_json(inputs=[{"name": "x", "shape": [2, 2], "datatype": datatype, "data": data}]).inputs["x"].array
    assert found.tolist() == ([[b"a", "é".encode()], [b"", b"b"]] if datatype == "BYTES" else array.tolist())


def test_json_numbers_are_rounded_to_their_datatype_once():
    value = 0.1 + 2**-40
    for datatype in ("FP64", "FP32", "FP16"):
        found = as_json(inputs=[X | {"shape": [1], "datatype": datatype, "data": [value]}]).inputs["x"].array
        assert found[0] == NUMPY[datatype](value)


def test_raw_bytes_follow_the_order_of_the_inputs():
    x, y = np.array([1.5, 2.5], np.float32), np.array([7], np.int64)
    document = {
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "json", "shape": [1], "datatype": "INT32", "data": [3]},
            {"name": "y", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
        ]
    }
    found = with_binary(document, x.tobytes() + y.tobytes()).inputs
    assert {name: tensor.array.tolist() for name, tensor in found.items()} == {"x": [1.5, 2.5], "json": [3], "y": [7]}


def test_a_header_that_is_the_whole_body_has_no_raw_bytes():
    body = orjson.dumps({"inputs": [X]})
    assert read_request(body, {HEADER_LENGTH: str(len(body))}).inputs["x"].array.tolist() == [[1, 2.5], [3, 4]]


# The rest of a request.


@pytest.mark.parametrize("nulls", [{}, {"id": None, "parameters": None, "outputs": None, "inputs": [X | {"parameters": None}]}])
def test_what_a_request_leaves_out_or_is_null_has_its_default(nulls):
    request = as_json(**nulls)
    assert (request.outputs, request.binary_outputs, request.parameters, request.id) == ([], False, {}, None)


def test_outputs_parameters_and_id_are_read():
    request = as_json(
        id="7",
        model_name="m",
        parameters={"sequence_id": 5, "sequence_start": True, "binary_data_output": True, "note": "a", "part": 0.5},
        outputs=[{"name": "y", "parameters": None}, {"name": "h_n", "parameters": {"binary_data": False}}],
    )
    assert request.id == "7"
    assert request.parameters == {"sequence_id": 5, "sequence_start": True, "note": "a", "part": 0.5}
    assert [(output.name, output.binary) for output in request.outputs] == [("y", True), ("h_n", False)]
    assert request.binary_outputs is True


WRONG = [
    ("nothing", b"", MalformedJson),
    ("no JSON", b"{", MalformedJson),
    ("NaN", b'{"inputs": NaN}', MalformedJson),
    ("a list", b"[]", MalformedJson),
    ("raw bytes without a length", orjson.dumps({"inputs": [X]}) + b"\x00\x01", MalformedJson),
    ("no inputs", {}, InvalidInput),
    ("inputs that are none", {"inputs": []}, InvalidInput),
    ("inputs that are no objects", {"inputs": [1]}, InvalidInput),
    ("a field twice", b'{"inputs": [], "inputs": []}', MalformedJson),
    ("a field of an input twice", b'{"inputs": [{"name": "x", "name": "y"}]}', MalformedJson),
    ("a parameter twice", b'{"parameters": {"step": 1, "step": 2}, "inputs": []}', MalformedJson),
    ("an unknown field", {"inputs": [X], "output": []}, UnknownField),
    ("an unknown field of an input", {"inputs": [X | {"dtype": "FP32"}]}, UnknownField),
    ("an input twice", {"inputs": [X, X]}, InvalidInput),
    ("no name", {"inputs": [X | {"name": ""}]}, InvalidInput),
    ("a name that is a number", {"inputs": [X | {"name": 1}]}, InvalidInput),
    ("an unknown datatype", {"inputs": [X | {"datatype": "FP8"}]}, InvalidInput),
    ("a datatype that is a list", {"inputs": [X | {"datatype": ["FP32"]}]}, InvalidInput),
    ("no data", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, InvalidInput),
    ("data twice", {"inputs": [X | {"parameters": {"binary_data_size": 16}}]}, InvalidInput),
    ("shared memory", {"inputs": [X | {"data": None, "parameters": {"shared_memory_region": "a"}}]}, InvalidInput),
    ("a scalar shape", {"inputs": [X | {"shape": []}]}, InvalidInput),
    ("no shape", {"inputs": [X | {"shape": None}]}, InvalidInput),
    ("a negative dimension", {"inputs": [X | {"shape": [-2, -2]}]}, InvalidInput),
    ("an empty dimension", {"inputs": [X | {"shape": [0, 2], "data": []}]}, InvalidInput),
    ("a broken dimension", {"inputs": [X | {"shape": [2, 2.0]}]}, InvalidInput),
    ("a dimension that is true", {"inputs": [X | {"shape": [True, 4]}]}, InvalidInput),
    ("a shape that overflows", {"inputs": [X | {"shape": [2**31 - 1] * 8}]}, InvalidInput),
    ("a dimension that overflows", {"inputs": [X | {"shape": [2**63, 2]}]}, InvalidInput),
    ("too many dimensions", {"inputs": [X | {"shape": [1] * 9}]}, InvalidInput),
    ("too few elements", {"inputs": [X | {"data": [1, 2, 3]}]}, InvalidInput),
    ("too many elements", {"inputs": [X | {"data": [1, 2, 3, 4, 5]}]}, InvalidInput),
    ("elements and lists", {"inputs": [X | {"data": [1, [2], 3, 4]}]}, InvalidInput),
    ("a number instead of a list", {"inputs": [X | {"shape": [1], "data": 1}]}, InvalidInput),
    ("deeper than any shape", {"inputs": [X | {"shape": [1], "data": [[[[[[[[[[[1]]]]]]]]]]]}]}, InvalidInput),
    ("a boolean among numbers", {"inputs": [X | {"data": [1, 2, True, 4]}]}, InvalidInput),
    ("null among integers", {"inputs": [X | {"datatype": "INT64", "data": [1, 2, None, 4]}]}, InvalidInput),
    ("a string among numbers", {"inputs": [X | {"data": [1, 2, "3", 4]}]}, InvalidInput),
    ("an object among numbers", {"inputs": [X | {"data": [1, 2, {}, 4]}]}, InvalidInput),
    ("a fraction among integers", {"inputs": [X | {"datatype": "INT64", "data": [1, 2, 3.0, 4]}]}, InvalidInput),
    ("beyond INT32", {"inputs": [X | {"datatype": "INT32", "data": [1, 2, 3, 2**31]}]}, InvalidInput),
    ("beyond INT64", {"inputs": [X | {"datatype": "INT64", "data": [1, 2, 3, 2**63]}]}, InvalidInput),
    ("a number among strings", {"inputs": [X | {"datatype": "BYTES", "data": ["a", "b", "c", 4]}]}, InvalidInput),
    ("an id that is long", {"inputs": [X], "id": "x" * 1025}, InvalidInput),
    ("a version that is a number", {"inputs": [X], "model_version": 1.0}, InvalidInput),
    ("an id that is a number", {"inputs": [X], "id": 7}, InvalidInput),
    ("parameters that are a list", {"inputs": [X], "parameters": []}, InvalidInput),
    ("a parameter that is an object", {"inputs": [X], "parameters": {"a": {}}}, InvalidInput),
    ("a flag that is a number", {"inputs": [X], "parameters": {"binary_data_output": 1}}, InvalidInput),
    ("outputs that are names", {"inputs": [X], "outputs": ["y"]}, InvalidInput),
    ("an output without a name", {"inputs": [X], "outputs": [{}]}, InvalidInput),
    ("classification", {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}, InvalidInput),
]


@pytest.mark.parametrize(("body", "error"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_no_request_is_refused(body, error):
    with pytest.raises(error):
        read_request(body if isinstance(body, bytes) else orjson.dumps(body), {})


# Lengths that lie.


def claim(size, shape, datatype="FP32", raw=b"\x00" * 16):
    item = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}
    return with_binary({"inputs": [item]}, raw)


@pytest.mark.parametrize(
    ("size", "shape"),
    [(2**31, [2**29]), (2**62, [2**31 - 1, 2**31 - 1]), (17, [4]), (16, [5]), (16, [2**31 - 1]), (15, [4]), (8, [2]), (0, [4]), (-16, [4])],
)
def test_a_size_that_is_not_there_takes_no_memory(size, shape):
    with pytest.raises(InvalidInput):
        claim(size, shape)


@pytest.mark.parametrize("size", [True, "16", 16.0])
def test_a_size_that_is_no_number_of_bytes_is_refused(size):
    with pytest.raises(InvalidInput):
        claim(size, [4])


@pytest.mark.parametrize("length", ["-1", "", "1e3", "٣", "0x10", "9" * 40, "1000000"])
def test_a_header_length_that_lies_is_refused(length):
    with pytest.raises(MalformedJson):
        read_request(orjson.dumps({"inputs": [X]}), {HEADER_LENGTH: length})


@pytest.mark.parametrize(
    ("raw", "shape"),
    [
        (b"\xff\xff\xff\xff" + b"\x00" * 12, [1]),  # 4 GB in 16 bytes
        (b"\x00\x00\x00\x00" * 4, [3]),  # one more than the shape
        (b"\x00\x00\x00\x00" * 4, [5]),  # one less
        (b"\x0c\x00\x00\x00" + b"a" * 12, [2]),  # the second begins at the end
        (b"\x0b\x00\x00\x00" + b"a" * 12, [1]),  # a byte is left
        (b"\x09\x00\x00\x00" + b"a" * 12, [2]),  # the second's length is cut
    ],
)
def test_elements_of_bytes_whose_lengths_lie_are_refused(raw, shape):
    with pytest.raises(InvalidInput):
        claim(16, shape, "BYTES", raw)


def test_bytes_that_belong_to_no_input_are_refused():
    with pytest.raises(InvalidInput, match="4 bytes behind the last input"):
        claim(16, [4], raw=b"\x00" * 20)


# What is written.


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "INT32", "BYTES"])
def test_what_is_written_is_read_back(datatype):
    array = array_of(datatype, (3, 2))
    raw = binary.write(array, datatype)
    assert raw == raw_bytes(array, datatype)
    assert (claim(len(raw), [3, 2], datatype, raw).inputs["x"].array == array).all()


def test_a_view_is_written_in_its_own_order():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert np.frombuffer(binary.write(array, "FP32"), np.float32).tolist() == [0, 3, 1, 4, 2, 5]
