"""Turns named tensors into requests: one for each row of the batch.

A client refers to sessions in one of two ways. The parameter `sequence_id`, with `sequence_start` and `sequence_end` as Triton's clients
send them, names one session for a batch of one row. The tensor `session` names one for each row; then a row fails alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handlers.arrays import Array, Floats
from handlers.engine.request import OPAQUE, Request
from handlers.errors import CellstateError, InvalidInput
from handlers.protocols import validation
from handlers.protocols.open_inference.binary import BYTES
from handlers.protocols.open_inference.tensors import InferRequest, RequestedOutput, Tensor
from handlers.protocols.rules import RequestRules
from handlers.protocols.validation import MAX_STEP, json_type, reject_unknown_fields, short_repr
from handlers.sessions import state as state_format
from handlers.sessions.reference import SessionRef
from handlers.sessions.state import State
from handlers.settings import Settings
from handlers.signature import Signature

X, Y, FUTURE, FORECAST, SESSION, STEP, GENERATION = "x", "y", "future", "forecast", "session", "step", "generation"
IGNORED = ("priority", "timeout")  # how Triton's scheduler is told; there is one queue here
PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", STEP, GENERATION, "horizon", "commit", *IGNORED)
INTEGERS = ("INT64", "INT32")


@dataclass(frozen=True)
class Decoder:
    """Decodes for one model under one set of limits."""

    signature: Signature
    limits: Settings
    rules: RequestRules = field(init=False)
    inputs: tuple[str, ...] = field(init=False)  # names of the tensors that may be sent
    outputs: tuple[str, ...] = field(init=False)  # names of the tensors that may be asked for

    def __post_init__(self) -> None:
        state = self.signature.state
        object.__setattr__(self, "rules", RequestRules(self.signature, self.limits))
        object.__setattr__(self, "inputs", (X, *(entry.input for entry in state), OPAQUE, FUTURE, SESSION, STEP, GENERATION))
        object.__setattr__(self, "outputs", (Y, "output", *(entry.output for entry in state), OPAQUE, FORECAST))

    def requests(self, infer: InferRequest) -> Sequence[Request | CellstateError]:
        """Decode the rows of one body.

        Raises:
            CellstateError: something is wrong with the body as a whole.
        """
        reject_unknown_fields(infer.inputs, self.inputs, "inputs")
        reject_unknown_fields(infer.parameters, PARAMETERS, "parameters")
        x = self._x(infer)
        rows = _Rows(infer, len(x))
        horizon = self._horizon(infer)
        returns = self._returns(infer.outputs, horizon)
        states, future, session = self._states(rows), self._future(rows, horizon), _sessions(rows)
        commit, close = rows.flag("commit", True), rows.flag("sequence_end")
        unusual = self._unusual(x)

        def request(i: int) -> Request:
            inputs, missing = self._checked(x[i], i) if unusual[i] else (x[i], 0)
            ref = session(i)
            decoded = Request(inputs, returns, states(i), ref, horizon, future(i), commit, close, missing)
            if ref is not None:
                self.rules.check_session(ref)
            self.rules.check(decoded)
            return decoded

        return [_row(request, i) for i in range(len(x))]

    def _x(self, infer: InferRequest) -> Array:
        """`[N, T, F]` float32, or `[N, T]` int64; the finite range of numbers is checked row by row."""
        tensor = infer.inputs.get(X)
        expected = "INT64 [N, T]" if self.signature.tokens else f"FP32 [N, T, {len(self.signature.features)}]"
        if tensor is None:
            raise InvalidInput(f"inputs: no tensor {X!r}; expected {expected} (signature {self.signature.label})")
        shape, columns = tensor.array.shape, () if self.signature.tokens else (len(self.signature.features),)
        if len(shape) < 2 or shape[2:] != columns:
            raise InvalidInput(f"x: expected {expected}, got the shape {list(shape)} (signature {self.signature.label})")
        self.rules.check_instances(shape[0])
        self.rules.check_steps(shape[1])
        if self.signature.tokens and tensor.datatype not in INTEGERS:
            raise InvalidInput(f"x: expected {expected}, got {tensor.datatype} (signature {self.signature.label})")
        return tensor.array.astype(np.int64) if self.signature.tokens else _floats(tensor, expected)

    def _unusual(self, x: Array) -> Array:
        """Return which rows hold a number that is missing or out of range, or a token id that is not in the vocabulary."""
        values = x.reshape(len(x), -1)
        if self.signature.tokens:
            unusual = (values < 0) | (values >= self.signature.vocabulary)
        else:
            unusual = ~(np.abs(values) <= self.signature.input_limit)  # true for NaN, too
        return np.asarray(unusual.any(axis=1))

    def _checked(self, inputs: Array, i: int) -> tuple[Array, int]:
        """Check the range of row i, `[T, F]` numbers or `[T]` token ids, and count the numbers that are missing."""
        if not self.signature.tokens:
            return validation.checked_measurements(inputs, f"x[{i}]", self.signature)
        if (outside := np.flatnonzero((inputs < 0) | (inputs >= self.signature.vocabulary))).size:
            validation.raise_token(int(outside[0]), int(inputs[outside[0]]), self.signature)
        return inputs, 0

    def _returns(self, outputs: Sequence[RequestedOutput], horizon: int) -> tuple[str, ...]:
        """What the requests return, in the order of the answer; without a choice of the client's the prediction."""
        names = [output.name for output in outputs]
        for name in names:
            validation.choice(name, self.outputs, "outputs")
        if len(set(names)) < len(names):
            raise InvalidInput("outputs: one is asked for twice")
        if FORECAST in names and not horizon:
            raise InvalidInput(f"outputs: {FORECAST} goes with the parameter horizon")
        wanted = {"prediction" if name == Y else name for name in names or (Y,)}
        return tuple(name for name in self.rules.returns if name in wanted)

    def _horizon(self, infer: InferRequest) -> int:
        horizon = validation.integer(infer.parameters, "horizon", "parameters.horizon") if "horizon" in infer.parameters else 0
        self.rules.check_horizon(horizon)
        return horizon

    def _future(self, rows: "_Rows", horizon: int) -> Callable[[int], Floats | None]:
        """The inputs known in advance of each row, `[horizon, K]` float32."""
        tensor = rows.infer.inputs.get(FUTURE)
        if tensor is None:
            self.rules.check_future(None, horizon, "")
            return lambda i: None
        shape, columns = tensor.array.shape, len(self.signature.future_columns)
        self.rules.check_future(shape[1] if len(shape) == 3 else -1, horizon, f"the shape {list(shape)}")
        if shape != (rows.count, horizon, columns):
            raise InvalidInput(f"future: expected FP32 {[rows.count, horizon, columns]}, got the shape {list(shape)}")
        array = _floats(tensor, f"FP32 [N, horizon, {columns}]")

        def future(i: int) -> Floats:
            row: Floats = array[i]
            validation.check_range(row, f"{FUTURE}[{i}]", self.signature.input_limit)
            return row

        return future

    def _states(self, rows: "_Rows") -> Callable[[int], State | None]:
        """The state that each row begins with: opaque strings, or the graph's own tensors `[L*D, N, size]`."""
        entries = [entry for entry in self.signature.state if entry.input in rows.infer.inputs]
        texts = rows.texts(OPAQUE)
        if texts is not None:
            if entries:
                raise InvalidInput(f"inputs: send either {OPAQUE} or {entries[0].input}")
            key = self.limits.state_key.encode()
            return lambda i: state_format.from_text(texts[i], self.signature, key)
        if not entries:
            return lambda i: None
        if missing := [entry.input for entry in self.signature.state if entry not in entries]:
            raise InvalidInput(f"inputs: {', '.join(missing)} missing; send all state tensors or none")
        parts = [self._state_tensor(rows.infer.inputs[entry.input], entry.rows, rows.count, entry.size) for entry in entries]
        values = np.concatenate([np.swapaxes(part, 0, 1).reshape(rows.count, -1) for part in parts], axis=1)

        def state(i: int) -> State:
            validation.check_range(values[i : i + 1], f"state[{i}]")
            return State(values[i], 0, self.signature.digest)

        return state

    def _state_tensor(self, tensor: Tensor, layers: int, count: int, size: int) -> Floats:
        expected = (layers, count, size)
        if tensor.array.shape != expected:
            raise InvalidInput(f"{tensor.name}: expected FP32 {list(expected)}, got the shape {list(tensor.array.shape)}")
        return _floats(tensor, f"FP32 {list(expected)}")


class _Rows:
    """What a body says of its rows beside `x`."""

    def __init__(self, infer: InferRequest, count: int) -> None:
        self.infer, self.count = infer, count

    def flag(self, name: str, default: bool = False) -> bool:
        return validation.boolean(self.infer.parameters, name, default)

    def integers(self, name: str) -> list[int] | None:
        """One integer for each row, from the tensor or the parameter of that name; None where there is neither."""
        if name in self.infer.parameters:
            return [validation.integer(self.infer.parameters, name, f"parameters.{name}")] * self.count
        values = self._column(name, INTEGERS)
        return None if values is None else [int(value) for value in values]

    def texts(self, name: str) -> list[str] | None:
        """One text for each row; what is not UTF-8 is replaced, so that it is found wrong."""
        values = self._column(name, (BYTES,))
        return None if values is None else [value.decode(errors="replace") for value in values]

    def _column(self, name: str, datatypes: Sequence[str]) -> Array | None:
        tensor = self.infer.inputs.get(name)
        if tensor is None:
            return None
        if tensor.datatype not in datatypes or tensor.array.size != self.count:
            raise InvalidInput(
                f"{name}: expected {datatypes[0]} [{self.count}], one for each row, got {tensor.datatype} {list(tensor.array.shape)}"
            )
        return tensor.array.ravel()


def _sessions(rows: _Rows) -> Callable[[int], SessionRef | None]:
    """The session of each row, None for a body without sessions."""
    sequence, ids = _sequence_id(rows.infer.parameters.get("sequence_id")), rows.texts(SESSION)
    start, steps, generations = rows.flag("sequence_start"), rows.integers(STEP), rows.integers(GENERATION)
    if sequence is None and ids is None:
        if start or rows.flag("sequence_end") or steps or generations:
            raise InvalidInput("sequence_start, sequence_end, step, generation: go with the parameter sequence_id or the tensor session")
        return lambda i: None
    if sequence is not None and (ids is not None or rows.count > 1):
        raise InvalidInput("sequence_id: goes with one row; for several send the tensor session, BYTES [N]")
    names = ids if ids is not None else [str(sequence)]

    def session(i: int) -> SessionRef:
        ref = SessionRef(validation.session_id(names[i], "session"))
        ref.step, ref.generation = _at(steps, i, STEP), _at(generations, i, GENERATION)
        if start and ref.step is None:
            ref.step, ref.restart = 0, True
        if start and ref.step:
            raise InvalidInput(f"step: {ref.step} does not go with sequence_start: a sequence starts at step 0")
        return ref

    return session


def _sequence_id(value: Any) -> str | None:
    """Triton's clients send 0 or "" where there is no sequence."""
    if value is None or (value == 0 and type(value) is int) or value == "":
        return None
    if type(value) not in (int, str):
        raise InvalidInput(f"sequence_id: expected an integer or a string, got {json_type(value)}")
    return str(value)


def _at(values: list[int] | None, i: int, name: str) -> int | None:
    if values is None:
        return None
    if not 0 <= values[i] <= MAX_STEP:
        raise InvalidInput(f"{name}: expected 0 to {MAX_STEP}, got {short_repr(values[i])}")
    return values[i]


def _floats(tensor: Tensor, expected: str) -> Floats:
    if tensor.datatype == BYTES:
        raise InvalidInput(f"{tensor.name}: expected {expected}, got {BYTES}")
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is found out of range
        return np.array(tensor.array, np.float32, order="C")  # a copy: the raw bytes of a body cannot be written to


def _row(request: Callable[[int], Request], i: int) -> Request | CellstateError:
    try:
        return request(i)
    except CellstateError as e:
        return e
