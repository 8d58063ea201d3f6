"""Turns named tensors into requests: one for each row of the batch.

A client refers to sessions in one of two ways. The parameter `sequence_id`, with `sequence_start` and `sequence_end` as Triton's clients
send them, names one session for a batch of one row. The tensor `session` names one for each row; then a row fails alone.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from handlers.arrays import Array, Floats
from handlers.engine.request import IMPUTED, OPAQUE, PREDICTION_ALONE, SAMPLES, Request
from handlers.errors import CellstateError, InvalidInput
from handlers.forecasting.observations import Times
from handlers.protocols import validation
from handlers.protocols.open_inference.binary import BYTES
from handlers.protocols.open_inference.observations import TIME, ObservationTensors
from handlers.protocols.open_inference.rows import GENERATION, INTEGERS, OF_SESSIONS, SESSION, STEP, Rows, sessions, step_refs
from handlers.protocols.open_inference.tensors import InferRequest, Tensor
from handlers.protocols.rules import RequestRules
from handlers.protocols.validation import reject_unknown_fields, short_repr
from handlers.sessions import state as state_format
from handlers.sessions.state import State
from handlers.settings import Settings
from handlers.signature import Signature

X, Y, FUTURE, FORECAST = "x", "y", "future", "forecast"
LEVELS, PATHS, LOWER, UPPER, TIMES = "levels", "paths", "lower", "upper", "times"
UNASKED = (IMPUTED, *OF_SESSIONS)  # outputs that are answered wherever there are some, as the times are, and may be named
IGNORED = ("priority", "timeout")  # how Triton's scheduler is told; there is one queue here
PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", STEP, GENERATION, "horizon", LEVELS, PATHS, "commit", *IGNORED)
PERCENTAGES = re.compile(r"\d{1,9}( *, *\d{1,9})*")


@dataclass(frozen=True)
class Decoder:
    """Decodes for one model under one set of limits."""

    signature: Signature
    limits: Settings
    rules: RequestRules = field(init=False)
    observations: ObservationTensors = field(init=False)
    x: str = field(init=False)  # what the model's clients call the tensors x and y
    y: str = field(init=False)
    inputs: tuple[str, ...] = field(init=False)  # names of the tensors that may be sent
    outputs: tuple[str, ...] = field(init=False)  # names of the tensors that may be asked for

    def __post_init__(self) -> None:
        state = self.signature.state
        x, y = (self.signature.tensors.get(name, name) for name in (X, Y))
        object.__setattr__(self, "rules", RequestRules(self.signature, self.limits))
        object.__setattr__(self, "observations", ObservationTensors(self.signature))
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "inputs", (x, *(entry.input for entry in state), OPAQUE, TIME, FUTURE, SESSION, STEP, GENERATION))
        object.__setattr__(self, "outputs", (y, *self.rules.returns[1:], FORECAST, LOWER, UPPER, TIMES, *UNASKED))

    def requests(self, infer: InferRequest) -> Sequence[Request | CellstateError]:
        """Decode the rows of one body.

        Raises:
            CellstateError: something is wrong with the body as a whole.
        """
        reject_unknown_fields(infer.inputs, self.inputs, "inputs")
        reject_unknown_fields(infer.parameters, PARAMETERS, "parameters")
        x = self._x(infer)
        rows = Rows(infer, len(x))
        horizon = self._horizon(infer)
        levels = self._levels(infer, horizon)
        returns = self._returns(infer, horizon, levels)
        paths = self._paths(infer, bool(levels) or SAMPLES in returns, horizon)
        times = self._times(infer, x)
        states, future = self._states(rows), self._future(rows, horizon)
        commit, close, unusual = rows.flag("commit", True), rows.flag("sequence_end"), self._unusual(x)
        has_more = horizon or states or close or not commit or returns != PREDICTION_ALONE
        if not has_more and not unusual.any() and (steps := self._usual_steps(rows, x)):
            return steps
        session = sessions(rows)

        def request(i: int, inputs: Array, is_unusual: bool) -> Request | CellstateError:
            try:
                inputs, missing = self._checked(inputs, i) if is_unusual else (inputs, 0)
                state, known = states(i) if states else None, future(i) if future else None
                ref, time = session(i) if session else None, times(i) if times else None
                is_usual = ref is not None and not (has_more or missing or ref.restart)
                decoded = Request(inputs, returns, state, ref, horizon, known, commit, close, missing, levels, paths, is_usual, time)
                if ref is not None:
                    self.rules.check_session(ref)
                self.rules.check(decoded)
                return decoded
            except CellstateError as e:
                return e

        return list(map(request, range(len(x)), x, unusual.tolist()))

    def _usual_steps(self, rows: Rows, x: Array) -> list[Request] | None:
        """Return the requests of steps that have nothing but numbers in range and a session; None where there may be more to check."""
        if self.rules.columns or not self.signature.streaming or (refs := step_refs(rows)) is None:
            return None
        times = self.observations.all_times(rows.infer.inputs[TIME]) if TIME in rows.infer.inputs else [None] * len(x)
        if times is None:
            return None
        return [
            Request(inputs, PREDICTION_ALONE, None, ref, is_usual_step=True, times=time)
            for inputs, ref, time in zip(x, refs, times, strict=True)
        ]

    def _x(self, infer: InferRequest) -> Array:
        """`[N, T, F]` float32, or `[N, T]` int64; the finite range of numbers is checked row by row."""
        tensor, label = infer.inputs.get(self.x), self.signature.label
        observed = TIME in infer.inputs and self.observations.timeline is not None
        width = len(self.observations.columns if observed else self.signature.features)
        expected = "INT64 [N, T]" if self.signature.tokens else f"FP32 [N, T, {width}]"
        if tensor is None:
            raise InvalidInput(f"inputs: no tensor {self.x!r}; expected {expected} (signature {label})")
        shape, columns = tensor.array.shape, () if self.signature.tokens else (width,)
        if len(shape) < 2 or shape[2:] not in (columns, () if width == 1 else columns):
            raise InvalidInput(f"{self.x}: expected {expected}, got the shape {list(shape)} (signature {label})")
        self.rules.check_instances(shape[0])
        self.rules.check_steps(shape[1])
        if self.signature.tokens and tensor.datatype not in INTEGERS:
            raise InvalidInput(f"{self.x}: expected {expected}, got {tensor.datatype} (signature {label})")
        if self.signature.tokens:
            return tensor.array.astype(np.int64)
        values = _floats(tensor, expected).reshape(*shape[:2], width)
        return self.observations.spread(values) if observed else values

    def _times(self, infer: InferRequest, x: Array) -> Callable[[int], Times | None] | None:
        """The times of each row's inputs, None where they are no observations."""
        tensor = infer.inputs.get(TIME)
        return None if tensor is None else self.observations.times(tensor, *x.shape[:2])

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
            return validation.checked_measurements(inputs, f"{self.x}[{i}]", self.signature)
        if (outside := np.flatnonzero((inputs < 0) | (inputs >= self.signature.vocabulary))).size:
            validation.raise_token(int(outside[0]), int(inputs[outside[0]]), self.signature)
        return inputs, 0

    def _returns(self, infer: InferRequest, horizon: int, levels: tuple[int, ...]) -> tuple[str, ...]:
        """What the requests return, in the order of the answer; without a choice of the client's the prediction."""
        names = [output.name for output in infer.outputs]
        for name in names:
            validation.choice(name, self.outputs, "outputs")
        if len(set(names)) < len(names):
            raise InvalidInput("outputs: one is asked for twice")
        if FORECAST in names and not horizon:
            raise InvalidInput(f"outputs: {FORECAST} goes with the parameter horizon")
        if not levels and (bounds := [name for name in names if name in (LOWER, UPPER)]):
            raise InvalidInput(f"outputs: {bounds[0]} goes with the parameter levels")
        if SESSION not in infer.inputs and (places := [name for name in names if name in OF_SESSIONS]):
            raise InvalidInput(f"outputs: {places[0]} goes with the input {SESSION}")
        wanted = {"prediction" if name == self.y else name for name in names or (self.y,)}
        return tuple(name for name in self.rules.returns if name in wanted)

    def _horizon(self, infer: InferRequest) -> int:
        horizon = validation.integer(infer.parameters, "horizon", "parameters.horizon") if "horizon" in infer.parameters else 0
        self.rules.check_horizon(horizon)
        return horizon

    def _levels(self, infer: InferRequest, horizon: int) -> tuple[int, ...]:
        """The levels of the intervals: one percentage, or some in a text, for a parameter cannot be a list."""
        value = infer.parameters.get(LEVELS)
        if value is None:
            return ()
        text = str(value) if type(value) is int else value
        if not isinstance(text, str) or not PERCENTAGES.fullmatch(text):
            raise InvalidInput(f'parameters.levels: expected percentages such as "80,95", got {short_repr(value)}')
        levels = tuple(int(level) for level in text.split(","))
        self.rules.check_levels(levels, horizon)
        return levels

    def _paths(self, infer: InferRequest, is_sampled: bool, horizon: int) -> int:
        """Along how many paths the forecast is sampled."""
        asked = validation.integer(infer.parameters, PATHS, "parameters.paths") if PATHS in infer.parameters else None
        return self.rules.paths(asked, is_sampled, horizon)

    def _future(self, rows: "Rows", horizon: int) -> Callable[[int], Floats] | None:
        """The inputs known in advance of each row, `[horizon, K]` float32."""
        tensor = rows.infer.inputs.get(FUTURE)
        known = self.observations.known_in_advance if TIME in rows.infer.inputs else self.signature.future_columns
        if tensor is None:
            self.rules.check_future(None, horizon, "", known)
            return None
        shape, columns = tensor.array.shape, len(known)
        self.rules.check_future(shape[1] if len(shape) == 3 else -1, horizon, f"the shape {list(shape)}", known)
        if shape != (rows.count, horizon, columns):
            raise InvalidInput(f"future: expected FP32 {[rows.count, horizon, columns]}, got the shape {list(shape)}")
        array = _floats(tensor, f"FP32 [N, horizon, {columns}]")

        def future(i: int) -> Floats:
            row: Floats = array[i]
            validation.check_range(row, f"{FUTURE}[{i}]", self.signature.input_limit)
            return row

        return future

    def _states(self, rows: "Rows") -> Callable[[int], State] | None:
        """The state that each row begins with: opaque strings, or the graph's own tensors `[L*D, N, size]`."""
        entries = [entry for entry in self.signature.state if entry.input in rows.infer.inputs]
        texts = rows.texts(OPAQUE)
        if texts is not None:
            if entries:
                raise InvalidInput(f"inputs: send either {OPAQUE} or {entries[0].input}")
            key = self.limits.state_key.encode()
            return lambda i: state_format.from_text(texts[i], self.signature, key)
        if not entries:
            return None
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


def _floats(tensor: Tensor, expected: str) -> Floats:
    """Return the numbers as float32, 0 for -0.0 as in the native protocol: a retry through either must be the same request."""
    if tensor.datatype == BYTES:
        raise InvalidInput(f"{tensor.name}: expected {expected}, got {BYTES}")
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is found out of range
        array = np.array(tensor.array, np.float32, order="C")  # a copy: the raw bytes of a body cannot be written to
    array += np.float32(0)
    return array
