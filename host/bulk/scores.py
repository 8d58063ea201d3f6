"""Scores of forecasts by step of the horizon, added up over many series, and the seasonal naive forecast beside them.

Sources: Hyndman and Koehler, "Another look at measures of forecast accuracy", 2006 (MASE); Gneiting and Raftery, "Strictly proper scoring
rules, prediction, and estimation", 2007 (interval score).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bounds = dict[int, tuple[Doubles, Doubles]]  # lower and upper by level, of the shape of the forecasts


@dataclass(frozen=True)
class Forecasts:
    """Forecasts `[N, H, O]` from N origins and what came, NaN where it was not measured; intervals by level, in percent."""

    values: Doubles
    observed: Doubles
    bounds: Bounds


@dataclass
class Totals:
    """Sums over forecasts, for each of H steps of the horizon."""

    horizon: int
    levels: Sequence[int]
    count: Doubles = field(init=False)
    absolute: Doubles = field(init=False)
    squared: Doubles = field(init=False)
    scaled: Doubles = field(init=False)  # absolute errors over the scale of their series
    with_scale: Doubles = field(init=False)  # how many have one
    intervals: dict[int, Doubles] = field(init=False)  # by level: values held, widths, interval scores, how many; [4, H]

    def __post_init__(self) -> None:
        self.count, self.absolute, self.squared, self.scaled, self.with_scale = (np.zeros(self.horizon) for _ in range(5))
        self.intervals = {level: np.zeros((4, self.horizon)) for level in self.levels}

    def add(self, made: Forecasts, scale: Doubles) -> None:
        """Add the forecasts of one series, whose naive errors are `scale` `[O]` in the mean; NaN where that is not known."""
        errors = np.abs(made.observed - made.values)
        known = ~np.isnan(errors)
        self.count += known.sum(axis=(0, 2))
        self.absolute += np.nansum(errors, axis=(0, 2))
        self.squared += np.nansum(errors**2, axis=(0, 2))
        relative = errors / scale
        self.scaled += np.nansum(relative, axis=(0, 2))
        self.with_scale += (~np.isnan(relative)).sum(axis=(0, 2))
        for level, (lower, upper) in made.bounds.items():
            self.intervals[level] += _interval_sums(made.observed, lower, upper, level)

    def document(self) -> list[dict[str, Any]]:
        """Return the scores of each step of the horizon; None where nothing was measured."""
        return [self._step(h) for h in range(self.horizon)]

    def _step(self, h: int) -> dict[str, Any]:
        return {
            "forecasts": int(self.count[h]),
            "mae": _ratio(self.absolute[h], self.count[h]),
            "rmse": None if not self.count[h] else float(np.sqrt(self.squared[h] / self.count[h])),
            "mase": _ratio(self.scaled[h], self.with_scale[h]),
            "intervals": {str(level): _shares(sums[:, h]) for level, sums in self.intervals.items()},
        }


def _interval_sums(observed: Doubles, lower: Doubles, upper: Doubles, level: int) -> Doubles:
    known = ~np.isnan(observed) & ~np.isnan(lower)
    missed = np.maximum(np.maximum(lower - observed, observed - upper), 0)
    score = (upper - lower) + 2 / (1 - level / 100) * missed
    parts = ((missed == 0) & known, np.where(known, upper - lower, 0), np.where(known, score, 0), known)
    return np.stack([part.sum(axis=(0, 2)) for part in parts])


def _shares(sums: Doubles) -> dict[str, float | None]:
    held, width, score, count = sums.tolist()
    return {"coverage": _ratio(100 * held, count), "width": _ratio(width, count), "score": _ratio(score, count)}


def _ratio(amount: float, count: float) -> float | None:
    return float(amount / count) if count else None


@dataclass(frozen=True)
class SeasonalNaive:
    """The forecast that repeats the last measured value of the same place in the season, of a series on a grid of steps `[G, O]`.

    Its intervals are as wide as its errors within the first `warm` steps were: split conformal prediction.
    """

    grid: Doubles
    season: int
    warm: int

    @cached_property
    def filled(self) -> Doubles:
        """The grid with what was measured a season before where nothing was measured."""
        filled = self.grid.copy()
        for start in range(self.season, len(filled), self.season):
            block = filled[start : start + self.season]
            before = filled[start - self.season : start - self.season + len(block)]
            np.copyto(block, before, where=np.isnan(block))
        return filled

    def scale(self) -> Doubles:
        """Return the mean absolute error one season ahead within the first steps, `[O]`; NaN where it is 0 or not known."""
        errors = self._errors(self.season)
        with np.errstate(invalid="ignore"):
            means = np.array([column[~np.isnan(column)].mean() if (~np.isnan(column)).any() else np.nan for column in errors.T])
        return np.where(means > 0, means, np.nan)

    def forecasts(self, origins: Integers, places: Integers, levels: Sequence[int]) -> Forecasts:
        """Return what it says of places `[N, H]` of the grid at origins `[N]`, the place that was observed last."""
        ahead = places - origins[:, None]
        values = _at(self.filled, places - self.season * -(-ahead // self.season))
        lags = self.season * -(-np.arange(1, places.shape[1] + 1) // self.season)
        halves = {level: np.stack([self._half(int(lag), level) for lag in lags]) for level in levels}  # [H, O]
        return Forecasts(values, self.at(places), {level: (values - half, values + half) for level, half in halves.items()})

    def at(self, places: Integers) -> Doubles:
        """Return what was measured at places of the grid, of any shape, `[…, O]`; NaN outside."""
        return _at(self.grid, places)

    def _errors(self, lag: int) -> Doubles:
        warm = self.grid[: self.warm]
        return np.abs(warm[lag:] - warm[:-lag])

    def _half(self, lag: int, level: int) -> Doubles:
        errors = self._errors(lag)
        return np.array([_quantile(column[~np.isnan(column)], level / 100) for column in errors.T])


def _at(grid: Doubles, places: Integers) -> Doubles:
    inside = (places >= 0) & (places < len(grid))
    return np.where(inside[..., None], grid[np.where(inside, places, 0)], np.nan)


def _quantile(errors: Doubles, share: float) -> float:
    """Return the conformal quantile: of n + 1 exchangeable errors the last is yet to come."""
    if not errors.size:
        return float("nan")
    place = min(math.ceil(share * (errors.size + 1)), errors.size)
    return float(np.partition(errors, place - 1)[place - 1])
