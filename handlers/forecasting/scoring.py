"""How good a stream's own predictions were, one step ahead, and whether they have got worse, in constant memory.

Drift is found by a one-sided CUSUM (Page, "Continuous inspection schemes", 1954) of how unusual errors are, which is 1 in the mean while
the stream behaves as the calibration series did, or as the distributions say that the model predicts.

Layout, little-endian: predictions scored (8 bytes), of those covered (8), the CUSUM (8), drifts (4), then for each series the mean absolute
error and the mean error, float64.
"""

import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from handlers.arrays import Array
from handlers.forecasting.intervals import COVERED_LEVEL, Doubles, Judged, JudgedTogether, Table

HEAD = struct.Struct("<QQdI")
SLACK = 0.5  # by which errors may exceed those of the calibration, in the mean, for ever
LIMIT = 30.0  # of the CUSUM, above which a stream has drifted
LARGEST = 8.0  # an error counts as at most so much: one outlier is no drift
FAMILIAR = 1.0  # of the CUSUM, below which a drift is over


class Judge(Protocol):
    """Judges the predictions of one model, of P series: `Intervals` of a model of points, `Predictive` of one of distributions."""

    @property
    def series(self) -> int:
        """P."""

    @property
    def naive(self) -> Doubles | None:
        """The mean absolute error `[P]` of the seasonal naive forecast on a calibration series; None where none was measured."""

    def judged(self, expected: Doubles, value: Doubles, factors: Table | None) -> Judged | None:
        """Compare outputs `[O]` with what came `[O]`. Return None where that cannot be scored, because something was not measured."""

    def judged_together(self, expected: Doubles, value: Doubles) -> JudgedTogether:
        """Compare outputs `[B, O]` with what came `[B, O]`, as `judged` does for each without factors."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one stream at one position."""

    absolute: Doubles  # [P], the mean absolute error
    error: Doubles  # [P], the mean of prediction minus observation
    steps: int = 0  # predictions that were scored
    covered: int = 0  # steps of which every series lay within its interval
    cusum: float = 0.0
    drifts: int = 0  # how often a drift began
    drifting: bool = False

    @classmethod
    def new(cls, series: int) -> "Scores":
        """Return the scores of a stream that has predicted nothing."""
        return cls(np.zeros(series), np.zeros(series))

    def observed(self, judge: Judge, expected: Doubles | None, value: Doubles, factors: Table | None) -> "Scores":
        """Return the scores after `value` `[O]` came where the outputs `expected` `[O]` were predicted. A value with NaN is not scored."""
        judged = None if expected is None else judge.judged(expected, value, factors)
        if judged is None:
            return self
        error, steps = judged.error, self.steps + 1
        cusum = max(0.0, self.cusum + min(judged.unusual, LARGEST) - 1 - SLACK)
        begins = cusum > LIMIT and not self.drifting
        return Scores(
            self.absolute + (np.abs(error) - self.absolute) / steps,
            self.error + (error - self.error) / steps,
            steps,
            self.covered + judged.covered,
            min(cusum, 2 * LIMIT),  # so that a stream that is well again is soon found so
            self.drifts + begins,
            begins or (self.drifting and cusum > FAMILIAR),
        )

    def since(self, before: "Scores") -> tuple[int, int, int]:
        """Return how many steps were scored, how many of those were covered, and how many drifts began, since earlier scores."""
        return self.steps - before.steps, self.covered - before.covered, self.drifts - before.drifts

    def encode(self) -> bytes:
        """Encode the scores."""
        flagged = self.drifts << 1 | self.drifting
        return HEAD.pack(self.steps, self.covered, self.cusum, flagged) + self.absolute.tobytes() + self.error.tobytes()

    def document(self, judge: Judge) -> dict[str, Any]:
        """Return the scores as `describe` shows them. MASE is relative to the naive forecast of the calibration series."""
        if not self.steps:
            return {"steps": 0, "drift": False, "drifts": 0}
        return {
            "steps": self.steps,
            "mae": self.absolute.tolist(),
            "bias": self.error.tolist(),
            **({} if judge.naive is None else {"mase": (self.absolute / judge.naive).tolist()}),
            "coverage": {str(COVERED_LEVEL): 100 * self.covered / self.steps},
            "drift": self.drifting,
            "drifts": self.drifts,
        }


def fields(series: int) -> list[Any]:
    """Return the fields of the scores of so many series, as `Scores.encode` writes them; `drifts` has its last bit set while drifting."""
    counts = [("steps", "<u8"), ("covered", "<u8"), ("cusum", "<f8"), ("drifts", "<u4")]
    return [*counts, ("absolute", "<f8", (series,)), ("error", "<f8", (series,))]


def observed_together(before: Array, judged: JudgedTogether, after: Array) -> npt.NDArray[np.int64]:
    """Set the scores of many streams after a step, to the bit as `Scores.observed` returns them for each.

    `before` and `after` are rows with `fields`. Return `[B, 3]`: predictions scored, of those covered, and drifts that began.
    """
    is_known, steps = judged.is_known, before["steps"] + judged.is_known
    unusual = np.where(judged.unusual > LARGEST, LARGEST, judged.unusual)
    cusum = before["cusum"] + unusual - 1 - SLACK
    cusum = np.where(cusum > 0, cusum, 0.0)
    was_drifting = (before["drifts"] & 1).astype(np.bool_)
    begins, covers = is_known & (cusum > LIMIT) & ~was_drifting, is_known & judged.covered
    drifting = begins | (was_drifting & (cusum > FAMILIAR))
    after["steps"], after["covered"] = steps, before["covered"] + covers
    after["cusum"] = np.where(is_known, np.where(cusum > 2 * LIMIT, 2 * LIMIT, cusum), before["cusum"])
    after["drifts"] = np.where(is_known, ((before["drifts"] >> 1) + begins) << 1 | drifting, before["drifts"])
    count = np.maximum(steps, 1).astype(np.float64)[:, None]
    for name, error in (("absolute", np.abs(judged.error)), ("error", judged.error)):
        after[name] = np.where(is_known[:, None], before[name] + (error - before[name]) / count, before[name])
    return np.stack([is_known, covers, begins], axis=1).astype(np.int64)


def decode(data: bytes, series: int) -> Scores:
    """Decode what `Scores.encode` encoded for a model of so many series; anything else is a stream that begins to count."""
    if len(data) != HEAD.size + 16 * series:
        return Scores.new(series)
    steps, covered, cusum, flagged = HEAD.unpack_from(data)
    means = np.frombuffer(data, "<f8", 2 * series, HEAD.size)
    return Scores(means[:series], means[series:], steps, covered, cusum, flagged >> 1, bool(flagged & 1))
