"""The Open Inference Protocol as a client writes and reads it, by its specification and not by the service's code."""

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.protocols.base import HttpRequest
from tests.support.in_process import InProcess

DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32", "object": "BYTES"}
HEADER_LENGTH = "inference-header-content-length"


@dataclass
class Answer:
    """A response: its outputs as arrays by name, or its error."""

    status: int
    document: dict[str, Any]
    outputs: dict[str, np.ndarray]
    binary: bool

    @property
    def error(self) -> str:
        return str(self.document["error"])

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.document.get("parameters", {}))


def texts(*items: str) -> np.ndarray:
    """BYTES, one element for each text."""
    array = np.empty(len(items), object)
    array[:] = [item.encode() for item in items]
    return array


def request(
    binary: bool = False, outputs: Any = None, id: str | None = None, inputs: dict[str, Any] | None = None, **parameters: Any
) -> HttpRequest:
    """A request of those tensors; `outputs` are names."""
    document: dict[str, Any] = {"inputs": []} if id is None else {"id": id, "inputs": []}
    raw = b""
    for name, array in (inputs or {}).items():
        head = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        if binary:
            chunk = b"".join(struct.pack("<I", len(item)) + item for item in array.ravel()) if array.dtype == object else array.tobytes()
            document["inputs"].append(head | {"parameters": {"binary_data_size": len(chunk)}})
            raw += chunk
        else:
            document["inputs"].append(head | {"data": [_to_json(item) for item in array.ravel().tolist()]})
    if outputs is not None:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in outputs]
    if parameters or binary:
        document["parameters"] = parameters | ({"binary_data_output": True} if binary else {})
    header = json.dumps(document).encode()
    return HttpRequest(header + raw, {HEADER_LENGTH: str(len(header))} if binary else {})


def _to_json(item: Any) -> Any:
    if isinstance(item, bytes):
        return item.decode()
    return None if item != item else item  # JSON has no NaN


def infer(service: InProcess, binary: bool = False, **more: Any) -> Answer:
    """Send one request and read the response."""
    [response] = service.frontend.handle_batch([request(binary, **more)])
    return read(response.status, response.body, response.headers.get("Inference-Header-Content-Length"))


def read(status: int, body: bytes, header_length: str | None) -> Answer:
    """Read one response."""
    length = len(body) if header_length is None else int(header_length)
    document, raw, outputs = json.loads(body[:length]), body[length:], {}
    for output in document.get("outputs", ()):
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            outputs[output["name"]] = _array(raw[:size], output)
            raw = raw[size:]
        else:
            outputs[output["name"]] = _from_json(output)
    assert not raw
    return Answer(status, document, outputs, header_length is not None)


def _array(raw: bytes, output: dict[str, Any]) -> np.ndarray:
    shape, datatype = output["shape"], output["datatype"]
    if datatype != "BYTES":
        return np.frombuffer(raw, {"FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}[datatype]).reshape(shape)
    items = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        items.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return np.array(items, object).reshape(shape)


def _from_json(output: dict[str, Any]) -> np.ndarray:
    kind: Any = {"FP32": np.float32, "INT64": np.int64, "INT32": np.int32, "BYTES": object}[output["datatype"]]
    return np.array(output["data"], kind).reshape(output["shape"])
