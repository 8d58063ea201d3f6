"""Models that predict a distribution: what the columns of their output mean, and how values are drawn from them.

The outputs of such a model are the parameters of one distribution, or its quantiles, for each series that it predicts. One of them is the
prediction: the mean of the distribution, or its median. The others say how sure the model is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.arrays import Floats
from handlers.errors import ConfigurationError
from handlers.signature import Signature

Doubles = npt.NDArray[np.float64]
MAX_RATE = 1e15  # of counts: beyond it a float64 does not hold every integer, and NumPy draws none beyond 9e18
MEDIAN = 0.5
QUANTILES = "quantiles"


@dataclass(frozen=True, slots=True)
class Family:
    """A family of distributions: its parameters in order, which of them is the prediction, and how `[n]` values are drawn.

    `statistic` is what the prediction is: "mean" or "median". Parameters in `positive` are greater than 0; those in `nonnegative` may be 0.
    """

    parameters: tuple[str, ...]
    prediction: int
    statistic: str
    draw: Callable[[Doubles, np.random.Generator], Doubles]  # parameters [n, P]
    positive: tuple[int, ...] = ()
    nonnegative: tuple[int, ...] = ()


def _normal(parameters: Doubles, random: np.random.Generator) -> Doubles:
    mean, deviation = parameters.T
    return np.asarray(mean + deviation * random.standard_normal(len(parameters)))


def _student(parameters: Doubles, random: np.random.Generator) -> Doubles:
    freedom, location, scale = parameters.T
    return np.asarray(location + scale * random.standard_t(freedom))


def _poisson(parameters: Doubles, random: np.random.Generator) -> Doubles:
    return np.asarray(random.poisson(np.minimum(parameters[:, 0], MAX_RATE)), np.float64)


def _negative_binomial(parameters: Doubles, random: np.random.Generator) -> Doubles:
    """Draw from a Poisson distribution whose rate is drawn from a gamma distribution: variance mean + dispersion · mean²."""
    mean, dispersion = parameters.T
    rate = mean * random.standard_gamma(1 / dispersion) * dispersion
    return np.asarray(random.poisson(np.minimum(rate, MAX_RATE)), np.float64)


FAMILIES: dict[str, Family] = {
    "normal": Family(("mean", "standard deviation"), 0, "mean", _normal, positive=(1,)),
    "studentt": Family(("degrees of freedom", "location", "scale"), 1, "median", _student, positive=(0, 2)),
    "poisson": Family(("rate",), 0, "mean", _poisson, nonnegative=(0,)),
    "negative-binomial": Family(("mean", "dispersion"), 0, "mean", _negative_binomial, positive=(1,), nonnegative=(0,)),
}


@dataclass(frozen=True)
class Distribution:
    """The distribution of one predicted series.

    `columns` of y hold its parameters, or its quantiles at the `levels`, which ascend within 0 and 1.
    """

    kind: str
    columns: tuple[int, ...]
    prediction: int  # the column of y that is the mean or the median
    levels: tuple[float, ...] = ()

    def draw(self, y: Floats, random: np.random.Generator) -> Doubles:
        """Draw one value for each of n rows of outputs `[n, O]`; NaN where the parameters are none of the distribution's."""
        parameters = y[:, self.columns].astype(np.float64)
        if self.kind == QUANTILES:
            return from_quantiles(parameters, np.array(self.levels), random.random(len(parameters)))
        valid = self.valid(y)
        parameters[~valid] = 1.0
        return np.where(valid, FAMILIES[self.kind].draw(parameters, random), np.nan)

    def valid(self, y: Floats) -> npt.NDArray[np.bool_]:
        """Return in which rows of outputs `[n, O]` the parameters are those of a distribution, `[n]`."""
        parameters = y[:, self.columns]
        valid = np.isfinite(parameters).all(axis=1)
        if self.kind != QUANTILES:
            family = FAMILIES[self.kind]
            valid &= (parameters[:, family.positive] > 0).all(axis=1) & (parameters[:, family.nonnegative] >= 0).all(axis=1)
        return np.asarray(valid)


def distributions(signature: Signature) -> tuple[Distribution, ...]:
    """Return the distributions that a model predicts; none for a model of points.

    Raises:
        ConfigurationError: the signature declares what this release does not know.
    """
    return tuple(_distribution(entry, signature) for entry in signature.distribution)


def _distribution(entry: Mapping[str, Any], signature: Signature) -> Distribution:
    try:
        kind, levels = entry["kind"], tuple(entry.get("levels", ()))
        columns = tuple(signature.outputs.index(name) for name in entry["outputs"])
        prediction = signature.outputs.index(entry["prediction"])
    except (KeyError, TypeError, ValueError) as e:
        raise ConfigurationError(f"distribution: cannot be read: {e!r}; export the model again") from e
    expected = len(levels) if kind == QUANTILES else len(FAMILIES[kind].parameters) if kind in FAMILIES else 0
    if not expected or len(columns) != expected:
        raise ConfigurationError(f"distribution: {kind!r} of {len(columns)} outputs is not known to this release; export the model again")
    return Distribution(kind, columns, prediction, levels)


def from_quantiles(quantiles: Doubles, levels: Doubles, shares: Doubles) -> Doubles:
    """Return the values below which `shares` `[n]` of n distributions lie that are known by their quantiles `[n, Q]` at `levels` `[Q]`.

    Between two quantiles the distribution function is linear. Beyond the outer ones it has the exponential tails that the last two
    quantiles of each side give, as in Park and others, "Learning quantile functions without quantile crossing", 2022. Quantiles that cross
    are sorted: Chernozhukov, Fernández-Val and Galichon, "Quantile and probability curves without crossing", 2010.
    """
    values, rows = np.sort(quantiles, axis=1), np.arange(len(quantiles))
    above = np.clip(np.searchsorted(levels, shares), 1, len(levels) - 1)
    low, high = values[rows, above - 1], values[rows, above]
    inside = low + (high - low) * (shares - levels[above - 1]) / (levels[above] - levels[above - 1])
    tiny = np.finfo(np.float64).tiny
    first, second, last, before = levels[0], levels[1], 1 - levels[-1], 1 - levels[-2]
    lower = values[:, 0] + (values[:, 1] - values[:, 0]) * np.log(np.maximum(shares, tiny) / first) / np.log(second / first)
    upper = values[:, -1] + (values[:, -1] - values[:, -2]) * np.log(np.maximum(1 - shares, tiny) / last) / np.log(last / before)
    return np.where(shares < levels[0], lower, np.where(shares > levels[-1], upper, inside))
