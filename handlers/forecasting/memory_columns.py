"""The memories of many streams as columns, of models whose streams learn from each observation: their times and their scores.

A step leaves memories that are alike, as long as nobody asks for intervals of the stream's forecasts: what those teach it takes as many
bytes as there are forecasts to be scored (handlers/forecasting/adaptation.py). Memories of other lengths are for `memory.StreamMemory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.arrays import Array, Floats
from handlers.forecasting import scoring
from handlers.forecasting.memory import FORMAT, NO_TIME, StreamMemory, by_output
from handlers.forecasting.observations import Timeline
from handlers.forecasting.scoring import Judge, Scores
from handlers.signature import Signature

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MemoryColumns:
    """The memories of one model's streams. A model of points without a calendar and a judge remembers what feeds back and no more."""

    signature: Signature
    timeline: Timeline | None
    judge: Judge | None

    @property
    def learns(self) -> bool:
        """Whether what a stream remembers after a step depends on what it remembered before."""
        return self.timeline is not None or self.judge is not None

    @cached_property
    def example(self) -> bytes:
        """A memory as a step leaves it, encoded; empty where nothing feeds back."""
        if not self.signature.feedback:
            return b""
        prediction, outputs = np.zeros(len(self.signature.feedback), np.float32), np.zeros(self._outputs, np.float32)
        scores = b"" if self.judge is None else Scores.new(self.judge.series).encode()
        return StreamMemory(prediction, scores=scores, learned=outputs.tobytes()).encode()

    @property
    def _outputs(self) -> int:
        """The number of outputs that a stream remembers: all of a model of distributions."""
        return len(self.signature.outputs) if self.judge is not None and self.signature.distribution else 0

    @cached_property
    def _layout(self) -> np.dtype[Any]:
        head = [("format", "u1"), ("missing", "<u2"), ("time", "<i8"), ("predicted", "<u2"), ("scored", "<u2")]
        scores = [] if self.judge is None else scoring.fields(self.judge.series)
        return np.dtype([*head, ("prediction", "<f4", (len(self.signature.feedback),)), *scores, ("outputs", "<f4", (self._outputs,))])

    def rows(self, records: Array) -> Array | None:
        """Return the memories in the field `forecast` of records as rows; None where they are not as long as a step leaves them."""
        if "forecast" not in (records.dtype.names or ()):
            return None
        memories = records["forecast"]
        return memories.view(self._layout) if memories.dtype.itemsize == self._layout.itemsize else None

    def are_alike(self, rows: Array) -> npt.NDArray[np.bool_]:
        """Return which rows are in the form that a step leaves."""
        [example] = np.frombuffer(self.example, self._layout)
        is_alike = rows["format"] == FORMAT
        for name in ("predicted", "scored"):
            is_alike &= rows[name] == example[name]
        return np.asarray(is_alike)

    def next_times(self, before: Array, readings: Times | None, steps: int) -> tuple[Times, npt.NDArray[np.bool_]]:
        """Return the times of the streams' last inputs, and which streams they follow without a gap; `NO_TIME` is not known.

        `before` are rows. `readings` `[B, 2]` are the times of one observation each, as `Calendar.parse` returns them; None for `steps`
        inputs without times.
        """
        last = before["time"].astype(np.int64)
        if self.timeline is None:
            return np.full_like(last, NO_TIME), np.ones(len(last), np.bool_)
        is_new, step = last == NO_TIME, self.timeline.calendar.step
        if readings is None:
            return np.where(is_new, last, last + steps * step), np.ones(len(last), np.bool_)
        times = np.where(readings[:, 0] > last, readings[:, 0], readings[:, 1])
        return times, is_new | (times == last + step)

    def features(self, times: Times) -> Floats:
        """Return the features that the calendar derives from times, `[B, K]`. The streams of a fleet share their times."""
        assert self.timeline is not None  # only it has times
        distinct, places = np.unique(times, return_inverse=True)
        derived: Floats = self.timeline.calendar.features(distinct.tolist())[places]
        return derived

    def predicted_times(self, times: Times) -> Sequence[str]:
        """Return the times of the steps after those at `times`, empty where they are not known; nothing of a model without a calendar."""
        if self.timeline is None:
            return ()
        calendar, last = self.timeline.calendar, times.tolist()
        texts = {time: "" if time == NO_TIME else calendar.format(time + calendar.step) for time in set(last)}
        return [texts[time] for time in last]

    def advance(
        self, before: Array | None, after: Array, times: Times | None, observed: Floats, outputs: Floats
    ) -> npt.NDArray[np.int64] | None:
        """Set the memories after a step, rows like those before it, which are None where the model does not learn.

        `observed` `[B, F]` are the inputs of the step, and `outputs` `[B, O]` what the model gave after it. Return `[B, 3]`: predictions
        scored, of those covered, and drifts that began; None where nothing judges predictions.
        """
        after["prediction"] = outputs[:, self.signature.fed_outputs]
        if times is not None:
            after["time"] = times
        if self.judge is None or before is None:
            return None
        after["outputs"] = outputs[:, : self._outputs]
        value = by_output(self.signature, observed[:, self.signature.fed_features])
        expected = before["outputs"].astype(np.float64) if self._outputs else by_output(self.signature, before["prediction"])
        return scoring.observed_together(before, self.judge.judged_together(expected, value), after)
