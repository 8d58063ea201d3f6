"""How good a stream's own predictions were, one step ahead, and whether they have got worse, in constant memory.

Drift is found by a one-sided CUSUM (Page, "Continuous inspection schemes", 1954) of the absolute errors over the scale that the exporter
measured, which are 1 in the mean while the stream behaves as the calibration series did.

Layout, little-endian: predictions scored (8 bytes), of those covered (8), the CUSUM (8), drifts (4), then for each output the mean absolute
error and the mean error, float64.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.forecasting.intervals import Doubles, Intervals, Table

HEAD = struct.Struct("<QQdI")
SLACK = 0.5  # by which errors may exceed those of the calibration, in the mean, for ever
LIMIT = 30.0  # of the CUSUM, above which a stream has drifted
LARGEST = 8.0  # an error counts as at most so much: one outlier is no drift
COVERED_LEVEL = 80  # percent, of the intervals whose coverage is kept
FAMILIAR = 1.0  # of the CUSUM, below which a drift is over


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one stream at one position."""

    absolute: Doubles  # [O], the mean absolute error
    error: Doubles  # [O], the mean of prediction minus observation
    steps: int = 0  # predictions that were scored
    covered: int = 0  # steps of which every output lay within its interval
    cusum: float = 0.0
    drifts: int = 0  # how often a drift began
    drifting: bool = False

    @classmethod
    def new(cls, outputs: int) -> "Scores":
        """Return the scores of a stream that has predicted nothing."""
        return cls(np.zeros(outputs), np.zeros(outputs))

    def observed(self, intervals: Intervals, prediction: Doubles | None, value: Doubles, factors: Table | None) -> "Scores":
        """Return the scores after `value` `[O]` came where `prediction` `[O]` was expected. A value with NaN is not scored."""
        if prediction is None or not np.isfinite(value).all() or not np.isfinite(prediction).all():
            return self
        error = prediction - value
        scaled = np.abs(error) / intervals.scale(prediction[None], np.zeros(1, np.int64))[0]
        steps = self.steps + 1
        covered = bool((np.abs(error) <= intervals.half_width(prediction, COVERED_LEVEL, factors)).all())
        cusum = max(0.0, self.cusum + min(float(scaled.mean()), LARGEST) - 1 - SLACK)
        begins = cusum > LIMIT and not self.drifting
        return Scores(
            self.absolute + (np.abs(error) - self.absolute) / steps,
            self.error + (error - self.error) / steps,
            steps,
            self.covered + covered,
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

    def document(self, intervals: Intervals) -> dict[str, Any]:
        """Return the scores as `describe` shows them. MASE is relative to the naive forecast of the calibration series."""
        if not self.steps:
            return {"steps": 0, "drift": False, "drifts": 0}
        return {
            "steps": self.steps,
            "mae": self.absolute.tolist(),
            "bias": self.error.tolist(),
            "mase": (self.absolute / intervals.naive).tolist(),
            "coverage": {str(COVERED_LEVEL): 100 * self.covered / self.steps},
            "drift": self.drifting,
            "drifts": self.drifts,
        }


def decode(data: bytes, outputs: int) -> Scores:
    """Decode what `Scores.encode` encoded for a model of `outputs`; anything else is a stream that begins to count."""
    if len(data) != HEAD.size + 16 * outputs:
        return Scores.new(outputs)
    steps, covered, cusum, flagged = HEAD.unpack_from(data)
    means = np.frombuffer(data, "<f8", 2 * outputs, HEAD.size)
    return Scores(means[:outputs], means[outputs:], steps, covered, cusum, flagged >> 1, bool(flagged & 1))
