"""Prediction intervals of a point model: conformal quantiles that the exporter measured, and their adaptation in each stream.

The exporter measured, on a calibration series, how far forecasts were off: for each output and each step of the horizon a scale that
depends on the forecast's own size, and quantiles of the absolute errors over that scale (split conformal prediction with normalised scores:
Lei and others, "Distribution-free predictive inference for regression", 2018). A stream that asks for intervals then tracks by what factor
they must grow or shrink, for each of the `TRACKED` levels and each group of horizons, from what came true (quantile tracking: Angelopoulos,
Candès and Tibshirani, "Conformal PID control for time series prediction", 2023, here on the logarithm of the factor).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.arrays import Floats
from handlers.errors import ConfigurationError
from handlers.signature import Signature

Doubles = npt.NDArray[np.float64]
Interval = tuple[Floats, Floats]  # lower and upper bounds, [n, O] each
Table = npt.NDArray[np.float32]  # [TRACKED, GROUPS], logarithms of factors

TRACKED = np.array([50, 80, 90, 95])  # levels, in percent
GROUPS = 4  # of horizons: the next step, then up to a quarter, a half and all of the calibrated horizon
# Of learning, by group: a short group meets fewer of the forecasts that are kept. Chosen with `python -m benchmarks.intervals`.
RATES = np.array([0.05, 0.11, 0.055, 0.045])
BOUNDS = (-3.0, 4.0)  # of the logarithm
MIN_LEVEL, MAX_LEVEL = 1, 99
COVERED_LEVEL = 80  # percent, of the intervals whose coverage scores tell
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one prediction of P series."""

    error: Doubles  # [P], prediction minus what came
    unusual: float  # how large the error is beside what is usual, in the mean over the series: 1 in the mean over time
    covered: bool  # whether every series lay within its interval of `COVERED_LEVEL`


@dataclass(frozen=True, slots=True)
class JudgedTogether:
    """What became of B predictions of P series, as `Judged` has it for one. Of those that are not known the other columns say nothing."""

    error: Doubles  # [B, P]
    unusual: Doubles  # [B]
    covered: npt.NDArray[np.bool_]  # [B]
    is_known: npt.NDArray[np.bool_]  # [B]


@dataclass(frozen=True)
class Intervals:
    """What the exporter measured for one model, of O outputs, L levels and a horizon of H steps."""

    levels: Doubles  # [L], in percent, ascending
    edges: Doubles  # [O, E], of forecasts, between which a scale holds
    scales: Doubles  # [O, H, E + 1], mean absolute errors
    quantiles: Doubles  # [O, L, H], of the absolute errors over their scales
    naive: Doubles  # [O], the mean absolute error of the seasonal naive forecast on the calibration series

    @classmethod
    def of(cls, signature: Signature) -> "Intervals | None":
        """Return the intervals of a model, None where it was not calibrated. Raises ConfigurationError where they cannot be read."""
        document: Mapping[str, Any] = signature.intervals
        if not document or signature.distribution:
            return None
        try:
            arrays = [np.array(document[name], np.float64) for name in ("levels", "edges", "scales", "quantiles", "naive")]
            levels, edges, scales, quantiles, naive = arrays
            outputs, horizon, bins = scales.shape
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigurationError(f"intervals: cannot be read: {e!r}; export the model again") from e
        expected = ((outputs, bins - 1), (outputs, len(levels), horizon), (outputs,))
        fits = outputs == len(signature.outputs) and (edges.shape, quantiles.shape, naive.shape) == expected
        if not fits or not set(TRACKED) <= set(levels):
            raise ConfigurationError("intervals: their tables do not fit the model; export it again")
        return cls(*arrays)

    @property
    def horizon(self) -> int:
        """The number of steps that were measured; farther ones are taken for the last."""
        return int(self.scales.shape[1])

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """The group of each step of the horizon, `[H]`."""
        ahead = np.arange(1, self.horizon + 1)
        return np.where(ahead == 1, 0, np.where(ahead <= self.horizon / 4, 1, np.where(ahead <= self.horizon / 2, 2, 3)))

    @cached_property
    def tracked_quantiles(self) -> Doubles:
        """The quantiles at the tracked levels, `[O, TRACKED, H]`."""
        places = [int(np.flatnonzero(self.levels == level)[0]) for level in TRACKED]
        return self.quantiles[:, places]

    def scale(self, forecast: Doubles, steps: npt.NDArray[np.int64]) -> Doubles:
        """Return the scale of each value of a forecast `[n, O]` at those steps of the horizon, `[n]` from 0."""
        columns = [self.scales[o, steps, np.searchsorted(self.edges[o], forecast[:, o])] for o in range(forecast.shape[1])]
        return np.stack(columns, axis=1)

    def bounds(self, forecast: Floats, levels: Sequence[int], factors: Table | None) -> list[Interval]:
        """Return lower and upper bounds `[n, O]` of a forecast `[n, O]` for each level.

        `factors` are those of a stream; None for intervals as they were measured.
        """
        centre, steps = forecast.astype(np.float64), np.minimum(np.arange(len(forecast)), self.horizon - 1)
        logarithms = np.zeros((len(TRACKED), GROUPS)) if factors is None else factors.astype(np.float64)
        by_level = np.stack([np.interp(self.levels, TRACKED, logarithms[:, group]) for group in range(GROUPS)], axis=1)  # [L, GROUPS]
        widths = self.quantiles[:, :, steps] * np.exp(by_level)[None][:, :, self.groups[steps]]  # [O, L, n]
        widths = np.maximum.accumulate(widths, axis=1) * self.scale(centre, steps).T[:, None]  # a higher level is never narrower
        known = np.concatenate([[0.0], self.levels])
        padded = np.concatenate([np.zeros_like(widths[:, :1]), widths], axis=1)
        results = []
        for level in levels:
            above = min(int(np.searchsorted(known, level)), len(known) - 1)
            share = min((level - known[above - 1]) / (known[above] - known[above - 1]), 1.0)
            half = ((1 - share) * padded[:, above - 1] + share * padded[:, above]).T  # [n, O]
            results.append((_floats(centre - half), _floats(centre + half)))
        return results

    @property
    def series(self) -> int:
        """The number of predicted series: each output is one."""
        return len(self.naive)

    def judged(self, expected: Doubles, value: Doubles, factors: Table | None) -> Judged | None:
        """Compare a prediction one step ahead `[O]` with what came `[O]`; None where one of them has NaN."""
        error = expected - value
        if not np.isfinite(error).all():
            return None
        scaled = np.abs(error) / self.scale(expected[None], np.zeros(1, np.int64))[0]
        return Judged(error, float(scaled.mean()), bool((np.abs(error) <= self.half_width(expected, COVERED_LEVEL, factors)).all()))

    def judged_together(self, expected: Doubles, value: Doubles) -> JudgedTogether:
        """Compare predictions one step ahead `[B, O]` with what came `[B, O]`, as `judged` does for each without factors."""
        error, scales = expected - value, self.scale(expected, np.zeros(len(expected), np.int64))
        widths = self.tracked_quantiles[:, _place(COVERED_LEVEL), 0] * scales
        size = np.abs(error)
        covered, is_known = np.asarray((size <= widths).all(axis=1)), np.asarray(np.isfinite(error).all(axis=1))
        return JudgedTogether(error, (size / scales).mean(axis=1), covered, is_known)

    def half_width(self, prediction: Doubles, level: int, factors: Table | None) -> Doubles:
        """Return half the width of the interval of a prediction `[O]` one step ahead, at one of the tracked levels."""
        place = _place(level)
        factor = 1.0 if factors is None else np.exp(float(factors[place, 0]))
        return np.asarray(self.tracked_quantiles[:, place, 0] * self.scale(prediction[None], np.zeros(1, np.int64))[0] * factor)

    def tracked(self, factors: Table, forecast: Doubles, observed: Doubles, step: int) -> Table:
        """Return the factors after `observed` `[O]` came for a `forecast` `[O]` made `step + 1` steps before. NaN teaches nothing."""
        group = int(self.groups[step])
        scale = self.scale(forecast[None], np.array([step]))[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.abs(observed - forecast) / (self.tracked_quantiles[:, :, step].T * scale)  # [TRACKED, O]
        known = np.isfinite(scores).all(axis=0)
        if not known.any():
            return factors
        current = factors[:, group].astype(np.float64)
        missed = (scores[:, known] > np.exp(current)[:, None]).mean(axis=1)
        changed = factors.copy()
        changed[:, group] = np.clip(current + RATES[group] * (missed - (1 - TRACKED / 100)), *BOUNDS)
        return changed


def _place(level: int) -> int:
    """Return where a level is among the tracked ones."""
    return int(np.flatnonzero(level == TRACKED)[0])


def _floats(values: Doubles) -> Floats:
    """Return float32, of which none is infinite."""
    return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
