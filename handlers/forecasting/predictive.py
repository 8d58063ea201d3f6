"""Judges predictions of models of distributions by what the model itself said of the next value: no calibration is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handlers.errors import ConfigurationError
from handlers.forecasting import cumulative
from handlers.forecasting.distributions import QUANTILES, Distribution, Doubles, distributions
from handlers.forecasting.intervals import COVERED_LEVEL, Judged, JudgedTogether, Table
from handlers.signature import Signature

TAIL = (100 - COVERED_LEVEL) / 200


@dataclass(frozen=True)
class Predictive:
    """The distributions of P series, one step ahead."""

    distributions: Sequence[Distribution]
    naive: Doubles | None = None  # [P], the mean absolute error of the seasonal naive forecast on a calibration series

    @classmethod
    def of(cls, signature: Signature) -> "Predictive | None":
        """Return the judge of a model, None where it predicts points. Raises ConfigurationError where it cannot be read."""
        known = distributions(signature)
        if not known:
            return None
        if not signature.intervals:
            return cls(known)
        naive = np.array(signature.intervals.get("naive", ()), np.float64)
        if naive.shape != (len(known),) or not (naive > 0).all():
            raise ConfigurationError("intervals.naive: expected an error for each distribution; export the model again")
        return cls(known, naive)

    @property
    def series(self) -> int:
        """The number of predicted series."""
        return len(self.distributions)

    def judged(self, expected: Doubles, value: Doubles, factors: Table | None) -> Judged | None:
        """Compare outputs `[O]` with what came `[O]`; None where a value was not measured, or the outputs are no distribution.

        With u the share of the distribution below the value (of a count, half of the value's own probability lies below it), -ln(2·min(u,
        1-u)) has mean 1 where the distribution is right: it is how unusual the value is. `factors` are of models of points.
        """
        columns = [distribution.prediction for distribution in self.distributions]
        error, outputs = expected[columns] - value[columns], expected[None].astype(np.float32)
        if not np.isfinite(error).all() or not all(distribution.valid(outputs)[0] for distribution in self.distributions):
            return None
        shares = [_shares(distribution, expected, value) for distribution in self.distributions]
        covered = all(below < 1 - TAIL and up_to >= TAIL for below, up_to in shares)
        return Judged(error, sum(_unusual((below + up_to) / 2) for below, up_to in shares) / len(shares), covered)

    def judged_together(self, expected: Doubles, value: Doubles) -> JudgedTogether:
        """Compare outputs `[B, O]` with what came `[B, O]`, one after the other: the functions of a distribution take one value."""
        nothing = Judged(np.full(self.series, np.nan), 0.0, False)
        judged = [self.judged(outputs, came, None) for outputs, came in zip(expected, value, strict=True)]
        found = [one or nothing for one in judged]
        return JudgedTogether(
            np.stack([one.error for one in found]),
            np.array([one.unusual for one in found]),
            np.array([one.covered for one in found]),
            np.array([one is not None for one in judged]),
        )


def _shares(distribution: Distribution, expected: Doubles, value: Doubles) -> tuple[float, float]:
    """Return how much of a distribution lies below the value, and up to it."""
    parameters, came = expected[list(distribution.columns)].tolist(), float(value[distribution.prediction])
    if distribution.kind == QUANTILES:
        return cumulative.of_quantiles(parameters, distribution.levels, came)
    return cumulative.shares(distribution.kind, parameters, came)


def _unusual(share: float) -> float:
    nearer = min(share, 1 - share)
    return -math.log(2 * nearer) if nearer > 0 else math.inf
