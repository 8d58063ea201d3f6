"""What one stream learns about the errors of its forecasts: factors of its intervals, and the forecasts that are still to be scored.

At most `MAX_BYTES` a stream. Of the forecasts that a client asks for, one is kept every few steps, until its last step came true.

Layout, little-endian: for each tracked level and group a float32 factor; steps since the last forecast was kept (2 bytes); then each kept
forecast: its age in steps (2), its values float16 `[H, O]` over the scale of one step, NaN beyond the horizon that was asked for.
"""

import math
import struct
from dataclasses import dataclass, replace

import numpy as np

from handlers.arrays import Floats
from handlers.forecasting.intervals import GROUPS, TRACKED, Doubles, Intervals, Table

MAX_BYTES = 384
MAX_KEPT = 5
AGE = struct.Struct("<H")
NEVER = 2**16 - 1
FACTORS = len(TRACKED) * GROUPS


@dataclass(frozen=True, slots=True)
class Kept:
    """A forecast to be scored: how many steps ago it was made, and its values `[H, O]`."""

    age: int
    values: Doubles


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What a stream has learned at one position."""

    factors: Table  # [TRACKED, GROUPS]
    since_kept: int = NEVER  # steps
    kept: tuple[Kept, ...] = ()

    @classmethod
    def new(cls) -> "Adaptation":
        """Return what a stream knows that has not asked for intervals before: nothing."""
        return cls(np.zeros((len(TRACKED), GROUPS), np.float32))

    def observed(self, intervals: Intervals, prediction: Doubles | None, value: Doubles) -> "Adaptation":
        """Return what is known after one more step: `value` `[O]` came where `prediction` `[O]` was expected. NaN was not measured."""
        factors, kept = self.factors, []
        if prediction is not None:
            factors = intervals.tracked(factors, prediction, value, 0)
        for forecast in self.kept:
            step = forecast.age  # from 0
            if step:
                factors = intervals.tracked(factors, forecast.values[step], value, step)
            if step + 1 < intervals.horizon:
                kept.append(replace(forecast, age=step + 1))
        return Adaptation(factors, min(self.since_kept + 1, NEVER), tuple(kept))

    def forecast(self, intervals: Intervals, values: Floats) -> "Adaptation":
        """Return what is known after a forecast `[n, O]` was given out: it is kept to be scored, if it is time to keep one."""
        count, every = kept_forecasts(intervals)
        if not count or self.since_kept < every or len(values) < 2:
            return self
        whole = np.full((intervals.horizon, values.shape[1]), np.nan)
        steps = min(len(values), intervals.horizon)
        whole[:steps] = _rounded(intervals, values[:steps].astype(np.float64))
        return Adaptation(self.factors, 0, (*self.kept, Kept(0, whole)))

    def encode(self, intervals: Intervals) -> bytes:
        """Encode what is known."""
        parts = [self.factors.astype("<f4").tobytes(), AGE.pack(self.since_kept)]
        unit = _unit(intervals)
        for forecast in self.kept:
            parts += AGE.pack(forecast.age), (forecast.values / unit).astype("<f2").tobytes()
        return b"".join(parts)


def decode(data: bytes, intervals: Intervals) -> Adaptation | None:
    """Decode what `Adaptation.encode` encoded for the same intervals; None for anything else, so that the stream begins to learn anew."""
    head, (outputs, horizon, _) = 4 * FACTORS + AGE.size, intervals.scales.shape
    stride = AGE.size + 2 * horizon * outputs
    if len(data) < head or (len(data) - head) % stride:
        return None
    factors = np.frombuffer(data, "<f4", FACTORS).reshape(len(TRACKED), GROUPS)
    kept, unit = [], _unit(intervals)
    for start in range(head, len(data), stride):
        (age,) = AGE.unpack_from(data, start)
        values = np.frombuffer(data, "<f2", horizon * outputs, start + AGE.size).reshape(horizon, outputs)
        if age >= horizon:
            return None
        kept.append(Kept(age, values.astype(np.float64) * unit))
    return Adaptation(factors, AGE.unpack_from(data, 4 * FACTORS)[0], tuple(kept))


def kept_forecasts(intervals: Intervals) -> tuple[int, int]:
    """Return how many forecasts a stream keeps at most, and every how many steps it keeps one.

    The interval is odd, so that over the days of hourly data every hour gets its turn.
    """
    outputs, horizon, _ = intervals.scales.shape
    room = (MAX_BYTES - 4 * FACTORS - AGE.size) // (AGE.size + 2 * horizon * outputs)
    count = min(room, MAX_KEPT)
    return count, math.ceil(horizon / count) | 1 if count else 0


def _unit(intervals: Intervals) -> Doubles:
    """Return what float16 values are counted in, `[O]`: fine beside the errors, and far from overflow."""
    return np.asarray(intervals.scales[:, 0].mean(axis=-1))


def _rounded(intervals: Intervals, values: Doubles) -> Doubles:
    """Return values as they will be read back, so that a stream is the same whether or not its record was written in between."""
    unit = _unit(intervals)
    with np.errstate(over="ignore"):
        return np.asarray((values / unit).astype(np.float16).astype(np.float64) * unit)
