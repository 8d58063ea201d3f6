"""Observations in the Open Inference Protocol: the tensor `time` beside `x`, which then holds the features that no calendar derives."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from handlers.arrays import Floats
from handlers.errors import InvalidInput
from handlers.forecasting.observations import Timeline, Times
from handlers.protocols.open_inference.binary import BYTES
from handlers.protocols.open_inference.tensors import Tensor
from handlers.signature import Signature

TIME = "time"


@dataclass(frozen=True)
class ObservationTensors:
    """Reads the tensors of observations for one model."""

    signature: Signature
    timeline: Timeline | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeline", Timeline.of(self.signature))

    @property
    def columns(self) -> tuple[int, ...]:
        """The feature columns of `x` beside `time`."""
        return () if self.timeline is None else tuple(sorted((*self.timeline.fed, *self.timeline.given)))

    @property
    def known_in_advance(self) -> tuple[int, ...]:
        """The feature columns of `future` beside `time`."""
        return () if self.timeline is None else self.timeline.given

    def spread(self, x: Floats) -> Floats:
        """Return `[N, T, F]` inputs for the columns that were sent, with zeros in those that the calendar derives."""
        rows = np.zeros((*x.shape[:2], len(self.signature.features)), np.float32)
        rows[:, :, self.columns] = x
        return rows

    def times(self, tensor: Tensor, count: int, steps: int) -> Callable[[int], Times]:
        """Return the times `[T, 2]` of row i, parsed when they are asked for.

        Raises:
            InvalidInput: the model has no calendar, or the tensor is not BYTES [N, T].
        """
        timeline = self.timeline
        if timeline is None:
            raise InvalidInput(f"{TIME}: {self.signature.label} declares no calendar, so it knows no times: leave it out")
        if tensor.datatype != BYTES or tensor.array.shape != (count, steps):
            got = f"{tensor.datatype} {list(tensor.array.shape)}"
            raise InvalidInput(f"{TIME}: expected BYTES {[count, steps]}, one for each step of each row, got {got}")
        calendar = timeline.calendar

        def times(i: int) -> Times:
            texts = [item.decode(errors="replace") for item in tensor.array[i]]
            return np.array([calendar.parse(text, f"{TIME}[{i}][{t}]") for t, text in enumerate(texts)], np.int64)

        return times

    def all_times(self, tensor: Tensor) -> Times | None:
        """Return the times `[N, T, 2]` of all rows of a tensor that `times` took, each text parsed once; None where one is wrong."""
        assert self.timeline is not None  # it took them
        texts, calendar = tensor.array.ravel().tolist(), self.timeline.calendar
        try:
            known = {text: calendar.parse(text.decode(errors="replace"), TIME) for text in set(texts)}
        except InvalidInput:
            return None
        return np.array([known[text] for text in texts], np.int64).reshape(*tensor.array.shape, 2)
