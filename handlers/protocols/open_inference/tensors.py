"""Reads a body of the Open Inference Protocol into named tensors. What they mean to a model is for `decode`.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from handlers.arrays import Array
from handlers.errors import InvalidInput, MalformedJson
from handlers.protocols.open_inference import binary
from handlers.protocols.open_inference.binary import BYTES, DATATYPES, HEADER_LENGTH, NUMBERS, Chunks
from handlers.protocols.validation import json_type, parse_json, reject_unknown_fields, short_repr

REQUEST_FIELDS = ("id", "model_name", "model_version", "parameters", "inputs", "outputs")  # KServe's client sends the model's name
INPUT_FIELDS = ("name", "shape", "datatype", "parameters", "data")
OUTPUT_FIELDS = ("name", "parameters")
MAX_RANK, MAX_DIMENSION = 8, 2**31 - 1
MAX_ID = 1_024  # characters; an id is echoed
JSON_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", dict: "an object", type(None): "null"}
Parameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array. FP16 and FP64 keep their precision, BF16 is widened to float32, BYTES is an object array of `bytes`."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the client asks for by name."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One body. Without `outputs` the client leaves the choice to the server; `binary_outputs` says how it wants those."""

    inputs: Mapping[str, Tensor]
    outputs: Sequence[RequestedOutput] = ()
    binary_outputs: bool = False
    parameters: Parameters = field(default_factory=dict)
    id: str | None = None
    model_version: str | None = None

    def in_binary(self, name: str) -> bool:
        """Whether the client wants an output as raw bytes."""
        return next((output.binary for output in self.outputs if output.name == name), self.binary_outputs)


def read_request(body: bytes, headers: Mapping[str, str]) -> InferRequest:
    """Read one body; the names of `headers` are in lower case. Raises MalformedJson, UnknownField, InvalidInput."""
    header, data = binary.split(body, headers.get(HEADER_LENGTH))
    document = _document(header)
    reject_unknown_fields(document, REQUEST_FIELDS, "request")
    parameters = _parameters(document, "parameters")
    binary_outputs = _flag(parameters, "binary_data_output", "parameters")
    return InferRequest(
        _inputs(document.get("inputs"), data),
        _outputs(document.get("outputs"), binary_outputs),
        binary_outputs,
        {name: value for name, value in parameters.items() if name != "binary_data_output"},
        _id(document),
        None if document.get("model_version") is None else _text(document, "model_version", "request"),
    )


def _document(header: bytes) -> dict[str, Any]:
    document = parse_json(header, "send one JSON object in UTF-8, and binary data only with Inference-Header-Content-Length")
    if not isinstance(document, dict):
        raise MalformedJson('body: expected a JSON object; for example {"inputs": [{"name": "x", …}]}')
    return document


def _inputs(value: Any, data: memoryview) -> dict[str, Tensor]:
    chunks, tensors = Chunks(data), dict[str, Tensor]()
    for i, item in enumerate(_objects(value, "inputs", "tensors, objects with name, shape, datatype and data (KServe V1 has instances)")):
        tensor = _input(item, f"inputs[{i}]", chunks)
        if tensor.name in tensors:
            raise InvalidInput(f"inputs[{i}].name: {short_repr(tensor.name)} is there twice")
        tensors[tensor.name] = tensor
    if not tensors:
        raise InvalidInput("inputs: expected at least one tensor")
    chunks.check_empty()
    return tensors


def _input(item: dict[str, Any], where: str, chunks: Chunks) -> Tensor:
    reject_unknown_fields(item, INPUT_FIELDS, where)
    name, datatype, shape = _text(item, "name", where), item.get("datatype"), _shape(item.get("shape"), f"{where}.shape")
    if datatype not in DATATYPES:
        raise InvalidInput(f"{where}.datatype: expected one of {', '.join(DATATYPES)}, got {short_repr(datatype)}")
    parameters, count = _parameters(item, f"{where}.parameters"), math.prod(shape)
    size = parameters.get("binary_data_size")
    if ("data" in item) == (size is not None):
        raise InvalidInput(f"{where}: expected either data or the parameter binary_data_size; shared memory is not supported")
    if size is None:
        return Tensor(name, datatype, _read_json(item["data"], datatype, shape, count, where))
    if type(size) is not int or size < 0:
        raise InvalidInput(f"{where}.parameters.binary_data_size: expected a number of bytes, got {short_repr(size)}")
    return Tensor(name, datatype, binary.read(chunks.take(size, where), datatype, shape, count, where))


def _outputs(value: Any, binary_outputs: bool) -> list[RequestedOutput]:
    outputs = []
    for i, item in enumerate(_objects([] if value is None else value, "outputs", "objects with a name")):
        where = f"outputs[{i}]"
        reject_unknown_fields(item, OUTPUT_FIELDS, where)
        parameters = _parameters(item, f"{where}.parameters")
        if parameters.get("classification"):
            raise InvalidInput(f"{where}.parameters.classification: not supported; take the largest values of the output yourself")
        outputs.append(RequestedOutput(_text(item, "name", where), _flag(parameters, "binary_data", f"{where}.parameters", binary_outputs)))
    return outputs


def _shape(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_RANK:
        raise InvalidInput(f"{where}: expected a list of 1 to {MAX_RANK} integers")
    for dimension in value:
        if type(dimension) is not int or not 0 < dimension <= MAX_DIMENSION:
            raise InvalidInput(f"{where}: expected integers from 1 to {MAX_DIMENSION}, got {short_repr(dimension)}")
    return tuple(value)


def _read_json(data: Any, datatype: str, shape: tuple[int, ...], count: int, where: str) -> Array:
    """`data` may be flat or nested as the shape says."""
    flat = _flatten(data, f"{where}.data")
    if len(flat) != count:
        raise InvalidInput(f"{where}.data: expected {count} elements for the shape {list(shape)}, got {len(flat)}")
    allowed = {str} if datatype == BYTES else {int} if datatype.startswith("INT") else {int, float, type(None)}
    if wrong := set(map(type, flat)) - allowed:
        raise InvalidInput(f"{where}.data: expected elements of {datatype}, got {JSON_NAMES[wrong.pop()]}")
    if datatype == BYTES:
        return _object_array([item.encode() for item in flat]).reshape(shape)
    try:
        with np.errstate(over="ignore"):  # what is beyond the datatype becomes infinite, for whoever checks the values
            return np.array(flat, NUMBERS.get(datatype, np.dtype("<f4"))).reshape(shape)
    except OverflowError as e:
        raise InvalidInput(f"{where}.data: a number is beyond {datatype}") from e


def _flatten(data: Any, where: str) -> list[Any]:
    for _ in range(MAX_RANK):
        if not isinstance(data, list):
            break
        if not any(isinstance(item, list) for item in data):
            return data
        if not all(isinstance(item, list) for item in data):
            raise InvalidInput(f"{where}: lists and elements side by side")
        data = list(chain.from_iterable(data))
    raise InvalidInput(f"{where}: expected a list of elements, nested at most {MAX_RANK} deep")


def _object_array(items: list[bytes]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _objects(value: Any, where: str, expected: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidInput(f"{where}: expected a list of {expected}, got {json_type(value)}")
    return value


def _parameters(document: Mapping[str, Any], where: str) -> Parameters:
    value = document.get("parameters")
    if value is None:  # as clients send it whose types have every field
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str | int | float) for item in value.values()):
        raise InvalidInput(f"{where}: expected an object of strings, numbers and booleans")
    return value


def _flag(parameters: Parameters, name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{where}.{name}: expected true or false, got {json_type(value)}")
    return value


def _text(document: Mapping[str, Any], name: str, where: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{where}.{name}: expected a string, got {json_type(value)}")
    return value


def _id(document: Mapping[str, Any]) -> str | None:
    if document.get("id") is None:
        return None
    value = _text(document, "id", "request")
    if len(value) > MAX_ID:
        raise InvalidInput(f"request.id: {len(value)} characters, at most {MAX_ID}")
    return value
