"""Models that predict distributions, and an offline account of what their sampled paths must be.

The account runs the unmodified model in PyTorch along each path that the service returned, and asks where in the model's own distribution
each value lies: drawn rightly, these shares are uniform, and those of different steps have nothing to do with each other.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.conftest import Spec
from tests.support import eager

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Probabilistic(nn.Module):
    """One LSTM layer over one series. x `[B, T, 1]` -> the parameters `[B, O]` of a distribution of the next value, near the last one."""

    def __init__(self, kind: str, hidden_size: int = 8) -> None:
        super().__init__()
        self.kind = kind
        self.lstm = nn.LSTM(1, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, {"poisson": 1, "studentt": 3, "quantiles": len(LEVELS)}.get(kind, 2))

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm((x - 20) / 10)
        raw: Tensor = self.head(output[:, -1])
        positive, last = nn.functional.softplus(raw), x[:, -1]
        location = 4 + 0.8 * last + 5 * raw[:, :1]
        if self.kind == "normal":
            return torch.cat([location, 0.5 + 3 * positive[:, 1:]], 1)
        if self.kind == "studentt":
            return torch.cat([3 + positive[:, :1], location, 0.5 + 3 * positive[:, 2:]], 1)
        if self.kind == "quantiles":
            return location + torch.cumsum(0.5 + positive, 1)
        return torch.cat([1 + 3 * positive[:, :1] + 0.8 * torch.relu(last), 0.05 + 0.1 * positive[:, 1:]], 1)


class Pair(nn.Module):
    """Two series and the hour. x `[B, T, 3]` (calls, load, hour) -> at every step load's mean and deviation, calls' rate."""

    def __init__(self, hidden_size: int = 8) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, hidden_size, batch_first=True), nn.Linear(hidden_size, 3)

    def forward(self, x: Tensor) -> Tensor:
        raw: Tensor = self.head(self.lstm(x / 10)[0])
        calls, load, hour = x.split(1, -1)
        mean, deviation = 1 + 0.8 * load + hour, 0.5 + nn.functional.softplus(raw[..., 1:2])
        return torch.cat([mean, deviation, 1 + 0.7 * torch.relu(calls) + nn.functional.softplus(raw[..., 2:])], -1)


PAIR = Spec(
    Pair,
    {},
    {
        "task": "forecast",
        "features": ["calls", "load", "hour"],
        "outputs": ["mu", "sigma", "rate"],
        "feedback": {"rate": "calls", "mu": "load"},
        "distribution": "normal:mu,sigma; poisson:rate",
        "example": [[4.0 + t % 3, 5.0 + math.sin(t), t % 5] for t in range(12)],
    },
    seed=2,
)
OUTPUTS = {
    "normal": ("mu", "sigma"),
    "studentt": ("df", "loc", "scale"),
    "poisson": ("rate",),
    "negative-binomial": ("mean", "dispersion"),
    "quantiles": ("q5", "q25", "median", "q75", "q95"),
}
PREDICTION = {"normal": 0, "studentt": 1, "poisson": 0, "negative-binomial": 0, "quantiles": 2}


def spec(kind: str, seed: int = 1) -> Spec:
    """The model to export, with `value` as its feature."""
    names = ",".join(OUTPUTS[kind]) if kind != "quantiles" else ",".join(map(str, LEVELS))
    card = {
        "task": "forecast",
        "features": ["value"],
        "outputs": list(OUTPUTS[kind]),
        "feedback": {OUTPUTS[kind][PREDICTION[kind]]: "value"},
        "distribution": f"{kind}:{names}",
        "example": [[20.0 + 10 * math.sin(t)] for t in range(12)],
    }
    return Spec(Probabilistic, {"kind": kind}, card, seed=seed)


def shares(model: nn.Module, kind: str, x: np.ndarray, samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return how much of the model's distribution lies below each value of sampled paths `[N, n]` after inputs `[T, 1]`, `[N, n]`.

    Of a count, a random part of its own probability lies below it, which makes its share uniform, too.
    """
    found = np.empty(samples.shape)
    for path, values in enumerate(samples.astype(np.float64)):
        whole = np.concatenate([x, values[:, None].astype(np.float32)])
        for step, value in enumerate(values):
            parameters = eager.run(model, whole[: len(x) + step]).prediction.astype(np.float64)
            found[path, step] = BELOW[kind](parameters, float(value), random.random())
    return found


def _normal(p: np.ndarray, value: float, _: float) -> float:
    return 0.5 * (1 + math.erf((value - p[0]) / (p[1] * math.sqrt(2))))


def _student(p: np.ndarray, value: float, _: float) -> float:
    """The integral of the density, by the trapezoidal rule."""
    df, grid = p[0], np.linspace(0, abs(value - p[1]) / p[2], 4001)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    half = float(np.trapezoid(scale * (1 + grid**2 / df) ** (-(df + 1) / 2), grid))
    return 0.5 + math.copysign(half, value - p[1])


def _poisson(p: np.ndarray, value: float, part: float) -> float:
    return _count([k * math.log(p[0]) - p[0] - math.lgamma(k + 1) for k in range(int(value) + 1)], part)


def _negative_binomial(p: np.ndarray, value: float, part: float) -> float:
    size, success = 1 / p[1], 1 / (1 + p[0] * p[1])
    head = size * math.log(success)
    terms = [math.lgamma(k + size) - math.lgamma(size) - math.lgamma(k + 1) + k * math.log1p(-success) for k in range(int(value) + 1)]
    return _count([head + term for term in terms], part)


def _count(logarithms: list[float], part: float) -> float:
    masses = np.exp(logarithms)
    return float(masses[:-1].sum() + part * masses[-1])


def _quantiles(p: np.ndarray, value: float, _: float) -> float:
    """Linear between the quantiles, exponential beyond them."""
    if value < p[0]:
        return LEVELS[0] * (LEVELS[1] / LEVELS[0]) ** ((value - p[0]) / (p[1] - p[0]))
    if value > p[-1]:
        above, before = 1 - LEVELS[-1], 1 - LEVELS[-2]
        return 1 - above * (above / before) ** ((value - p[-1]) / (p[-1] - p[-2]))
    return float(np.interp(value, p, LEVELS))


BELOW: dict[str, Callable[[Any, float, float], float]] = {
    "normal": _normal,
    "studentt": _student,
    "poisson": _poisson,
    "negative-binomial": _negative_binomial,
    "quantiles": _quantiles,
}


def distance_from_uniform(values: np.ndarray) -> float:
    """The statistic of Kolmogorov and Smirnov times the root of the number of values: above 1.95 in one case of a thousand."""
    ordered, count = np.sort(values.ravel()), values.size
    steps = np.arange(count + 1) / count
    largest = max(np.abs(steps[1:] - ordered).max(), np.abs(ordered - steps[:-1]).max())
    return float(largest * math.sqrt(count))
