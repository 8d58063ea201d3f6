"""Requests with their answers, in the order in which they are sent: of a model `meter` with one feature, which keeps earlier states.

A test sends each of them. An answer's numbers are rounded, and `…` stands for what was left out. Times, digests and states differ from one
server to the next.
"""

from dataclasses import dataclass
from typing import Any

MODEL = {"name": "meter", "version": "1.0"}
HIDDEN = [-0.0405, 0.0615, 0.0347, -0.0032, -0.0736, -0.1133, 0.0226, 0.0013]
CELL = [-0.0753, 0.1316, 0.0875, -0.0064, -0.1772, -0.1966, 0.0445, 0.0025]
CREATED_AT, EXPIRES_AT = "2026-11-25T12:00:00Z", "2026-11-26T12:00:00Z"
REWARM = "off: 25 inputs take 100 bytes, more than its state (64)"


@dataclass(frozen=True, slots=True)
class Example:
    """One request, the status of its answer, and the answer."""

    name: str
    summary: str
    request: Any
    answer: Any
    status: int = 200


def _error(code: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": details or {}}}


def _session(id: str, step: int, **more: Any) -> dict[str, Any]:
    """Return the `session` field of a native reply."""
    return {"id": id, "step": step, "generation": 0, "expires_at": EXPIRES_AT, "replayed": False} | more


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _x(*rows: list[float]) -> dict[str, Any]:
    """Return the input `x` of windows of one feature."""
    return _tensor("x", "FP32", [len(rows), len(rows[0]), 1], [value for row in rows for value in row])


NATIVE = (
    Example("window", "Predict a window", {"inputs": [3.1, 3.4, 3.3]}, {"prediction": [2.4726], "model": MODEL}),
    Example(
        "windows",
        "Predict many windows; a row fails alone",
        {"instances": [{"inputs": [3.1, 3.4]}, {"inputs": [[3.1, 3.4]]}]},
        {
            "predictions": [
                {"prediction": [2.4748], "model": MODEL},
                _error("invalid_input", "inputs[0]: expected 1 features, got 2 (signature meter-1.0)"),
            ]
        },
    ),
    Example(
        "start",
        "Start a session",
        {"inputs": [3.1], "session": {"id": "meter-7", "step": 0}},
        {"prediction": [2.4725], "model": MODEL, "session": _session("meter-7", 1)},
    ),
    Example(
        "next",
        "The next steps of a session",
        {"inputs": [3.4, 3.3], "session": {"id": "meter-7", "step": 1, "generation": 0}},
        {"prediction": [2.4726], "model": MODEL, "session": _session("meter-7", 3)},
    ),
    Example(
        "retry",
        "The same request again: answered from the record",
        {"inputs": [3.4, 3.3], "session": {"id": "meter-7", "step": 1, "generation": 0}},
        {"prediction": [2.4726], "model": MODEL, "session": _session("meter-7", 3, replayed=True)},
    ),
    Example(
        "wrongStep",
        "A step at which the session is not",
        {"inputs": [2.9], "session": {"id": "meter-7", "step": 9}},
        _error(
            "step_conflict",
            'session meter-7 is live, at step 3; "step": 9 cannot be served: …',
            {"session": "meter-7", "expected": 3, "generation": 0},
        ),
        409,
    ),
    Example(
        "startedAlready",
        "Start a session that is there",
        {"inputs": [2.9], "session": {"id": "meter-7", "step": 0}},
        _error(
            "session_exists",
            'session meter-7 is live, at step 3; "step": 0 cannot be served: …',
            {"session": "meter-7", "expected": 3, "generation": 0},
        ),
        409,
    ),
    Example(
        "notThere",
        "A step of a session that is not there",
        {"inputs": [3.1], "session": {"id": "meter-8", "step": 4}},
        _error(
            "session_not_found", 'session meter-8 is absent; "step": 4 cannot be served: start it with "step": 0', {"session": "meter-8"}
        ),
        404,
    ),
    Example(
        "forecast",
        "Forecast; the session advances by the inputs alone",
        {"inputs": [2.9], "session": {"id": "meter-7", "step": 3}, "horizon": 2},
        {"prediction": [2.4671], "forecast": [[2.4671], [2.4607]], "model": MODEL, "session": _session("meter-7", 4)},
    ),
    Example(
        "whatIf",
        "What if: answer and leave the session where it is",
        {"inputs": [9.9], "session": {"id": "meter-7", "step": 4}, "commit": False},
        {"prediction": [2.5771], "model": MODEL, "session": _session("meter-7", 4)},
    ),
    Example(
        "missing",
        "A value that was not measured: the session's prediction stands in for it",
        {"inputs": [None], "session": {"id": "meter-7", "step": 4}},
        {"prediction": [2.4607], "imputed": 1, "model": MODEL, "session": _session("meter-7", 5)},
    ),
    Example(
        "states",
        "The hidden states, and the state that the client may hold",
        {"inputs": [3.1], "return": ["prediction", "output", "h_n", "c_n", "state"]},
        {
            "prediction": [2.4725],
            "output": [HIDDEN],
            "h_n": [HIDDEN],
            "c_n": [CELL],
            "state": "…",
            "model": MODEL,
        },
    ),
    Example(
        "describe",
        "Where a session is",
        {"session": {"id": "meter-7", "action": "describe"}},
        {
            "model": MODEL,
            "session": _session("meter-7", 5, created_at=CREATED_AT, last_step=4, model_digest="00" * 16, rewarm=REWARM),
        },
    ),
    Example(
        "fork",
        "Another session that begins where this one is",
        {"session": {"id": "meter-7", "action": "fork", "to": "what-if"}},
        {"model": MODEL, "session": _session("what-if", 5)},
    ),
    Example(
        "rewind",
        "Go back to an earlier position",
        {"session": {"id": "meter-7", "action": "rewind", "step": 3, "generation": 0}},
        {"model": MODEL, "session": _session("meter-7", 3, generation=1)},
    ),
    Example(
        "export",
        "The session's state as a string",
        {"session": {"id": "meter-7", "action": "export"}},
        {"state": "…", "model": MODEL, "session": _session("meter-7", 3, generation=1)},
    ),
    Example(
        "close",
        "End a session",
        {"session": {"id": "meter-7", "action": "close"}},
        {"model": MODEL, "session": _session("meter-7", 3, generation=1, closed=True)},
    ),
    Example(
        "closed",
        "A step of a session that was ended",
        {"inputs": [2.9], "session": {"id": "meter-7", "step": 3}},
        _error("session_closed", 'session meter-7 is closed; "step": 3 cannot be served: …', {"session": "meter-7"}),
        410,
    ),
    Example(
        "unknownField",
        "A field that there is not",
        {"input": [3.1]},
        _error("unknown_field", "request: unknown field 'input'; did you mean 'inputs'?"),
        400,
    ),
    Example(
        "tooFar",
        "A forecast beyond the limit",
        {"inputs": [3.1], "horizon": 1001},
        _error("too_large", "horizon: 1001, at most 1000"),
        413,
    ),
    Example(
        "notANumber",
        "An input that is no number",
        {"inputs": ["3.1"]},
        _error("invalid_input", "inputs[0][0]: expected a number, got a string; fill in what is missing and not predicted by the model"),
        422,
    ),
)

OPEN_INFERENCE = (
    Example(
        "windows",
        "Predict two windows",
        {"id": "1", "inputs": [_x([3.1, 3.4, 3.3], [2.9, 2.8, 2.7])]},
        {"model_name": "meter", "model_version": "1.0", "id": "1", "outputs": [_tensor("y", "FP32", [2, 1], [2.4726, 2.463])]},
    ),
    Example(
        "start",
        "Start a sequence",
        {"inputs": [_x([3.1])], "parameters": {"sequence_id": 1007, "sequence_start": True}},
        {
            "model_name": "meter",
            "model_version": "1.0",
            "parameters": {"sequence_id": "1007", "step": 1, "generation": 0, "replayed": False},
            "outputs": [_tensor("y", "FP32", [1, 1], [2.4725])],
        },
    ),
    Example(
        "next",
        "The next step, exactly once, with a forecast",
        {"inputs": [_x([3.4])], "parameters": {"sequence_id": 1007, "step": 1, "horizon": 2}},
        {
            "model_name": "meter",
            "model_version": "1.0",
            "parameters": {"sequence_id": "1007", "step": 2, "generation": 0, "replayed": False},
            "outputs": [_tensor("y", "FP32", [1, 1], [2.4748]), _tensor("forecast", "FP32", [1, 2, 1], [2.4748, 2.4676])],
        },
    ),
    Example(
        "sessions",
        "Many sessions in one request; a row fails alone",
        {
            "inputs": [
                _x([3.0], [3.0]),
                _tensor("session", "BYTES", [2], ["1007", "meter-9"]),
                _tensor("step", "INT64", [2], [2, 5]),
            ]
        },
        {
            "model_name": "meter",
            "model_version": "1.0",
            "outputs": [
                _tensor("y", "FP32", [2, 1], [2.4704, None]),
                _tensor("step", "INT64", [2], [3, -1]),
                _tensor("generation", "INT64", [2], [0, -1]),
                _tensor("status", "INT32", [2], [200, 404]),
                _tensor("error", "BYTES", [2], ["", "session_not_found: session meter-9 is absent; …"]),
            ],
        },
    ),
    Example(
        "end",
        "End a sequence with its last step",
        {"inputs": [_x([2.9])], "parameters": {"sequence_id": 1007, "step": 3, "sequence_end": True}},
        {
            "model_name": "meter",
            "model_version": "1.0",
            "parameters": {"sequence_id": "1007", "step": 4, "generation": 0, "replayed": False, "sequence_end": True},
            "outputs": [_tensor("y", "FP32", [1, 1], [2.4647])],
        },
    ),
    Example(
        "ended",
        "A step of a sequence that was ended",
        {"inputs": [_x([2.9])], "parameters": {"sequence_id": 1007, "step": 4}},
        {"error": 'session_closed: session 1007 is closed; "step": 4 cannot be served: …'},
        410,
    ),
    Example(
        "otherShape",
        "A tensor of another shape",
        {"inputs": [_tensor("x", "FP32", [1, 1, 2], [3.1, 3.4])]},
        {"error": "invalid_input: x: expected FP32 [N, T, 1], got the shape [1, 1, 2] (signature meter-1.0)"},
        422,
    ),
)

KSERVE_V1 = (
    Example("windows", "Predict two windows", {"instances": [[3.1, 3.4, 3.3], [2.9, 2.8]]}, {"predictions": [[2.4726], [2.4685]]}),
    Example(
        "sessions",
        "Native requests as instances",
        {"instances": [{"inputs": [3.1], "session": {"id": "meter-10", "step": 0}}]},
        {"predictions": [{"prediction": [2.4725], "model": MODEL, "session": _session("meter-10", 1)}]},
    ),
    Example(
        "notAWindow",
        "A window without steps",
        {"instances": [[3.1, 3.4, 3.3], []]},
        {"error": "instances[1]: invalid_input: instance: expected T lists of 1 numbers (load), got an empty list (signature meter-1.0)"},
        422,
    ),
)
