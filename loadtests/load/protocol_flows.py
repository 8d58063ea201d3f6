"""The same as `flows` through the other protocols: the Open Inference Protocol (V2) in JSON and in raw bytes, and KServe V1."""

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from loadtests.load.checks import MALFORMED, Checker, Problem, Reply, failure, wrong_session
from loadtests.load.exchange import HEADER_LENGTH, Check, Exchange, Flow, answered, encode
from loadtests.offline import WINDOW, Array

V1, V2 = "/v1/models/{model}:predict", "/v2/models/{model}/infer"
BULK = 16  # sessions of one request
NUMBERS = {"FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}  # datatypes of the outputs that are checked


def kserve_v1(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for one prediction of one window by KServe V1."""
    row = draw.randrange(len(checker.answers.x))

    def check(answer: dict[str, Any]) -> Problem | None:
        predictions = answer.get("predictions")
        if not isinstance(predictions, list) or len(predictions) != 1:
            return Problem(MALFORMED, f"window {row}: expected one prediction")
        return checker.window(row, {"prediction": predictions[0]})

    yield Exchange("kserve_v1", encode({"instances": [checker.answers.x[row, :WINDOW]]}), answered(check), V1)


def open_inference(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Ask for one prediction of one window by the Open Inference Protocol."""
    row = draw.randrange(len(checker.answers.x))

    def check(answer: dict[str, Any]) -> Problem | None:
        return checker.window(row, {"prediction": _output(answer, "y", checker.answers.window[row].shape)})

    yield Exchange("open_inference", encode({"inputs": [_x(checker.answers.x[row : row + 1, :WINDOW])]}), answered(check), V2)


def open_inference_stream(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Feed one session by the parameters that Triton's clients send, with the step that makes it exactly once; the last step ends it."""
    row = draw.randrange(len(checker.answers.x))
    for start in range(WINDOW):
        parameters = {"sequence_id": id, "sequence_start": start == 0, "sequence_end": start == WINDOW - 1, "step": start}
        request = {"inputs": [_x(checker.answers.x[row : row + 1, start : start + 1])], "parameters": parameters}
        kind = "open_inference_stream: step" if start else "open_inference_stream: open"
        yield Exchange(kind, encode(request), _sequence_check(checker, row, id, start), V2)


def _sequence_check(checker: Checker, row: int, id: str, start: int) -> Check:
    def check(reply: Reply) -> Problem | None:
        answer, problem = reply.parsed()
        told = answer.get("parameters", {})
        session = {"id": told.get("sequence_id"), "step": told.get("step"), "replayed": told.get("replayed", False)}
        replayed = False if reply.attempt == 1 else None
        prediction = {"prediction": _output(answer, "y", checker.answers.after(row, start, start + 1).shape)}
        return problem or wrong_session({"session": session}, id, start + 1, replayed) or checker.step(row, start, start + 1, prediction)

    return check


def open_inference_bulk(checker: Checker, draw: random.Random, id: str) -> Flow:
    """Feed several sessions with one request of tensors for each observation of all of them."""
    rows = [draw.randrange(len(checker.answers.x)) for _ in range(BULK)]
    ids = [f"{id}-{i}" for i in range(BULK)]
    for start in range(WINDOW):
        session = {"name": "session", "datatype": "BYTES", "shape": [BULK], "data": ids}
        step = {"name": "step", "datatype": "INT64", "shape": [BULK], "data": [start] * BULK}
        request = {"inputs": [_x(checker.answers.x[rows, start : start + 1]), session, step]}
        yield Exchange("open_inference_bulk: step", encode(request), answered(_rows_check(checker, rows, start)), V2)


def open_inference_binary(checker: Checker, draw: random.Random, id: str) -> Flow:
    """The same as `open_inference_bulk` with tensors as raw bytes, both ways."""
    rows = [draw.randrange(len(checker.answers.x)) for _ in range(BULK)]
    ids = [f"{id}-{i}".encode() for i in range(BULK)]
    packed = b"".join([struct.pack("<I", len(one)) + one for one in ids])
    for start in range(WINDOW):
        x = checker.answers.x[rows, start : start + 1]
        chunks = {
            "x": (*_datatype(x), list(x.shape)),
            "session": ("BYTES", packed, [BULK]),
            "step": ("INT64", np.full(BULK, start, "<i8").tobytes(), [BULK]),
        }
        tensors = [
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, (datatype, data, shape) in chunks.items()
        ]
        header = encode({"inputs": tensors, "parameters": {"binary_data_output": True}})
        body = header + b"".join([data for _, data, _ in chunks.values()])
        headers = {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        yield Exchange("open_inference_binary: step", body, _binary_check(_rows_check(checker, rows, start)), V2, headers)


def _datatype(values: Array) -> tuple[str, bytes]:
    """Return the datatype and the raw bytes of numbers or token ids."""
    return ("FP32", values.astype("<f4").tobytes()) if values.dtype.kind == "f" else ("INT64", values.astype("<i8").tobytes())


def _binary_check(check: Callable[[dict[str, Any]], Problem | None]) -> Check:
    """Check an answer whose tensors are raw bytes as the one that has them in JSON."""

    def checked(reply: Reply) -> Problem | None:
        if reply.status != 200:
            return failure(reply)
        if reply.header_length is None:
            return Problem(MALFORMED, f"no header {HEADER_LENGTH}")
        answer, data = orjson.loads(reply.content[: reply.header_length]), reply.content[reply.header_length :]
        for tensor in answer["outputs"]:
            size = tensor["parameters"]["binary_data_size"]
            chunk, data = data[:size], data[size:]
            if tensor["datatype"] in NUMBERS:
                tensor["data"] = np.frombuffer(chunk, NUMBERS[tensor["datatype"]]).tolist()
        return check(answer) if not data else Problem(MALFORMED, f"{len(data)} bytes behind the last tensor")

    return checked


def _rows_check(checker: Checker, rows: list[int], start: int) -> Callable[[dict[str, Any]], Problem | None]:
    def check(answer: dict[str, Any]) -> Problem | None:
        shape = checker.answers.after(rows[0], start, start + 1).shape
        y, steps = _output(answer, "y", (BULK, *shape)), _output(answer, "step", (BULK,))
        if y is None or steps != [start + 1] * BULK:
            return Problem(MALFORMED, f"step {start}: expected {BULK} rows at step {start + 1}, got {steps}")
        problems = (checker.step(row, start, start + 1, {"prediction": y[i]}) for i, row in enumerate(rows))
        return next((problem for problem in problems if problem is not None), None)

    return check


def _x(values: Array) -> dict[str, Any]:
    """Return the input tensor of `[N, T, F]` numbers or `[N, T]` token ids."""
    return {"name": "x", "datatype": "FP32" if values.dtype.kind == "f" else "INT64", "shape": list(values.shape), "data": values.ravel()}


def _output(answer: dict[str, Any], name: str, shape: tuple[int, ...]) -> Any:
    """Return an output tensor as nested lists of that shape, or None where there is none of that many elements."""
    outputs = answer.get("outputs")
    tensor = next((t for t in outputs if isinstance(t, dict) and t.get("name") == name), None) if isinstance(outputs, list) else None
    if tensor is None or not isinstance(tensor.get("data"), list) or len(tensor["data"]) != int(np.prod(shape)):
        return None
    return np.array(tensor["data"]).reshape(shape).tolist()
