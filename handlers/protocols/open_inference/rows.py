"""Reads what a body of the Open Inference Protocol says of its rows beside `x`: flags, one integer or text a row, and their sessions."""

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

from handlers.arrays import Array
from handlers.errors import InvalidInput
from handlers.protocols import validation
from handlers.protocols.open_inference.binary import BYTES
from handlers.protocols.open_inference.tensors import InferRequest
from handlers.protocols.validation import json_type, short_repr
from handlers.sessions.reference import MAX_STEP, SessionRef, StepRef

SESSION, STEP, GENERATION, STATUS, ERROR = "session", "step", "generation", "status", "error"
OF_SESSIONS = (STEP, GENERATION, STATUS, ERROR)  # outputs, beside the input `session`
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")  # parameters that refer to the session of a single row
INTEGERS = ("INT64", "INT32")


class Rows:
    """What a body says of its `count` rows."""

    def __init__(self, infer: InferRequest, count: int) -> None:
        self.infer, self.count = infer, count

    def flag(self, name: str, default: bool = False) -> bool:
        return validation.boolean(self.infer.parameters, name, default)

    def integers(self, name: str) -> list[int] | None:
        """One integer for each row, from the tensor or the parameter of that name; None where there is neither."""
        if name in self.infer.parameters:
            if name in self.infer.inputs:
                raise InvalidInput(f"{name}: send it as a parameter, for all rows, or as a tensor, for each of them")
            return [validation.integer(self.infer.parameters, name, f"parameters.{name}")] * self.count
        values = self._column(name, INTEGERS)
        return None if values is None else values.tolist()

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


def sessions(rows: Rows) -> Callable[[int], SessionRef] | None:
    """The session of each row, None for a body without sessions."""
    sequence, ids = _sequence_id(rows.infer.parameters.get("sequence_id")), rows.texts(SESSION)
    start, steps, generations = rows.flag("sequence_start"), rows.integers(STEP), rows.integers(GENERATION)
    if sequence is None and ids is None:
        if start or rows.flag("sequence_end") or steps or generations:
            raise InvalidInput("sequence_start, sequence_end, step, generation: go with the parameter sequence_id or the tensor session")
        return None
    if sequence is not None and (ids is not None or rows.count > 1):
        raise InvalidInput("sequence_id: goes with one row; for several send the tensor session, BYTES [N]")
    names = ids if ids is not None else [str(sequence)]

    def session(i: int) -> SessionRef:
        ref = SessionRef(validation.session_id(names[i], "session"))
        ref.step = None if steps is None else _checked(steps[i], STEP)
        ref.generation = None if generations is None else _checked(generations[i], GENERATION)
        if start and ref.step is None:
            ref.step, ref.restart = 0, True
        if start and ref.step:
            raise InvalidInput(f"step: {ref.step} does not go with sequence_start: a sequence starts at step 0")
        return ref

    return session


def step_refs(rows: Rows) -> list[StepRef] | None:
    """The session of each row where tensors alone name them, all of them rightly; None otherwise."""
    if not rows.infer.parameters.keys().isdisjoint(SEQUENCE) or (ids := rows.texts(SESSION)) is None:
        return None
    steps, generations = rows.integers(STEP), rows.integers(GENERATION)
    numbers = [number for column in (steps, generations) if column is not None for number in (min(column), max(column))]
    if not validation.are_session_ids(ids) or any(not 0 <= number <= MAX_STEP for number in numbers):
        return None
    return list(map(StepRef, ids, steps or repeat(None), generations or repeat(None)))


def _sequence_id(value: Any) -> str | None:
    """Triton's clients send 0 or "" where there is no sequence."""
    if value is None or (value == 0 and type(value) is int) or value == "":
        return None
    if type(value) not in (int, str):
        raise InvalidInput(f"sequence_id: expected an integer or a string, got {json_type(value)}")
    return str(value)


def _checked(value: int, name: str) -> int:
    if not 0 <= value <= MAX_STEP:
        raise InvalidInput(f"{name}: expected 0 to {MAX_STEP}, got {short_repr(value)}")
    return value
