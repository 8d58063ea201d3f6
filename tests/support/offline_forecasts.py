"""Streams with holes, intervals and scores, computed a second time from docs/forecasts.md alone: PyTorch, lists and plain arithmetic.

For models of one output, whose first feature it is. Nothing of the service is imported. Every prediction runs the unmodified model over the
whole stream from its start.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from tests.support import eager

TRACKED, RATES = (50, 80, 90, 95), (0.05, 0.11, 0.055, 0.045)


@dataclass
class Tables:
    """`intervals` of a signature, of one output."""

    document: dict[str, Any]

    @property
    def horizon(self) -> int:
        return len(self.document["scales"][0])

    def scale(self, value: float, ahead: int) -> float:
        """Of a forecast of that value, made that many steps ahead."""
        below = sum(edge < value for edge in self.document["edges"][0])
        return self.document["scales"][0][min(ahead, self.horizon) - 1][below]

    def quantile(self, level: int, ahead: int) -> float:
        place = self.document["levels"].index(level)
        return self.document["quantiles"][0][place][min(ahead, self.horizon) - 1]

    def group(self, ahead: int) -> int:
        ahead = min(ahead, self.horizon)
        if ahead == 1:
            return 0
        return 1 if ahead <= self.horizon / 4 else 2 if ahead <= self.horizon / 2 else 3


@dataclass
class OfflineStream:
    """One stream. Copy it to fork it, or to keep it for a rewind."""

    model: nn.Module
    tables: Tables
    per_step: bool = False
    inputs: list[list[float]] = field(default_factory=list)  # as they ran
    expected: float | None = None  # the prediction of the next value
    factors: list[list[float]] | None = None  # logarithms, by level and group; None where nobody asked for levels
    kept: list[list[Any]] = field(default_factory=list)  # of each forecast its age in steps, and its values
    since_kept: float = math.inf
    errors: list[float] = field(default_factory=list)
    held: int = 0
    cusum: float = 0.0
    drifting: bool = False
    drifts: int = 0

    def copy(self) -> "OfflineStream":
        return copy.copy(self)._with_own_lists()

    def _with_own_lists(self) -> "OfflineStream":
        for name in ("inputs", "factors", "kept", "errors"):
            setattr(self, name, copy.deepcopy(getattr(self, name)))
        return self

    def step(
        self, rows: list[list[float | None]], horizon: int = 0, future: Any = (), levels: tuple[int, ...] = (), answered: Any = ()
    ) -> dict[str, Any]:
        """Consume rows, and answer as the service would.

        `answered` is the forecast that the service gave, where it is known. It differs from this one in its last digits, and is what is
        kept: a value halfway between two of float16 would be rounded the other way.
        """
        if levels and self.factors is None:
            self.factors = [[0.0] * 4 for _ in TRACKED]
        known, imputed = self.expected, 0
        for row in rows:
            filled = [self.expected if row[0] is None else row[0], *row[1:]]
            imputed += row[0] is None
            self.inputs.append([float(np.float32(value)) for value in filled])
            self.expected = self._predict(self.inputs)
            self._observe(known, math.nan if row[0] is None else self.inputs[-1][0])
            known = self.expected if self.per_step else None
        reply: dict[str, Any] = {"prediction": self.expected, "imputed": imputed}
        if horizon:
            reply["forecast"] = forecast = self._rolled(horizon, future)
            if levels:
                reply["intervals"] = {
                    level: [self._half(value, ahead, level) for ahead, value in enumerate(forecast, 1)] for level in levels
                }
                self._keep([float(value) for value in answered] or forecast)
        return reply

    def _predict(self, inputs: list[list[float]]) -> float:
        return float(eager.run(self.model, np.array(inputs, np.float32)).prediction.ravel()[-1])

    def _rolled(self, horizon: int, future: Any) -> list[float]:
        grown, values = list(self.inputs), [self.expected]
        for known in list(future)[: horizon - 1] if len(future) else [[]] * (horizon - 1):
            grown.append([values[-1], *known])
            values.append(self._predict(grown))
        return values

    def _observe(self, predicted: float | None, value: float) -> None:
        """Score the prediction of this value, and learn from it and from the kept forecasts of it."""
        if predicted is not None and not math.isnan(value):
            self._score(predicted, value)
        if self.factors is None:
            return
        if predicted is not None:
            self._learn(predicted, value, 1)
        for forecast in self.kept:
            forecast[0] += 1
            if forecast[0] > 1:
                self._learn(forecast[1][forecast[0] - 1], value, forecast[0])
        self.kept = [forecast for forecast in self.kept if forecast[0] < self.tables.horizon]
        self.since_kept += 1

    def _learn(self, predicted: float, value: float, ahead: int) -> None:
        if math.isnan(value) or math.isnan(predicted):
            return
        group = self.tables.group(ahead)
        for i, level in enumerate(TRACKED):
            logarithm = self.factors[i][group]
            half = self.tables.quantile(level, ahead) * self.tables.scale(predicted, ahead) * math.exp(logarithm)
            missed = float(abs(value - predicted) > half)
            changed = logarithm + RATES[group] * (missed - (1 - level / 100))
            self.factors[i][group] = float(np.float32(min(max(changed, -3.0), 4.0)))

    def _score(self, predicted: float, value: float) -> None:
        scale = self.tables.scale(predicted, 1)
        logarithm = 0.0 if self.factors is None else self.factors[1][0]
        self.errors.append(predicted - value)
        self.held += abs(predicted - value) <= self.tables.quantile(80, 1) * scale * math.exp(logarithm)
        self.cusum = max(0.0, self.cusum + min(abs(predicted - value) / scale, 8.0) - 1.5)
        if self.cusum > 30 and not self.drifting:
            self.drifts, self.drifting = self.drifts + 1, True
        elif self.cusum <= 1:
            self.drifting = False
        self.cusum = min(self.cusum, 60.0)

    def _half(self, value: float, ahead: int, level: int) -> float:
        """Half the width of the interval of a forecast."""
        levels, widths = [0, *self.tables.document["levels"]], [0.0]
        for one in levels[1:]:
            logarithm = np.interp(one, TRACKED, [row[self.tables.group(ahead)] for row in self.factors])
            widths.append(max(widths[-1], self.tables.quantile(one, ahead) * math.exp(logarithm)))
        return float(np.interp(level, levels, widths)) * self.tables.scale(value, ahead)

    def _keep(self, forecast: list[float]) -> None:
        horizon = self.tables.horizon
        count = min(5, (384 - 66) // (2 + 2 * horizon))
        every = 0 if count == 0 else math.ceil(horizon / count) + (math.ceil(horizon / count) % 2 == 0)
        if count == 0 or self.since_kept < every or len(forecast) < 2:
            return
        unit = float(np.mean(self.tables.document["scales"][0][0]))
        values = [float(np.float16(value / unit)) * unit for value in forecast[:horizon]]
        self.kept.append([0, values + [math.nan] * (horizon - len(values))])
        self.since_kept = 0

    def scores(self) -> dict[str, Any]:
        """As `describe` shows them."""
        if not self.errors:
            return {"steps": 0, "drift": False, "drifts": 0}
        absolute = float(np.mean(np.abs(self.errors)))
        return {
            "steps": len(self.errors),
            "mae": [absolute],
            "bias": [float(np.mean(self.errors))],
            "mase": [absolute / self.tables.document["naive"][0]],
            "coverage": {"80": 100 * self.held / len(self.errors)},
            "drift": self.drifting,
            "drifts": self.drifts,
        }
