"""The traffic data as arrays: loading, the features known in advance, filled inputs, and a day as token ids.

The features that follow from the time are the service's own: `handlers/forecasting/calendar.py`.
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.forecasting.calendar import Calendar

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Hours = NDArray[np.datetime64]

PATH = Path(__file__).parent / "data" / "metro-interstate-traffic-hourly.csv.gz"
FREQUENCY = "1h"
# `holiday_next` is 1 when the hour being forecast, the one after the row, is in a holiday: traffic changes at midnight, and a row of 23:00
# can only announce it that way. On Columbus Day and Veterans Day the road is within a tenth of a workday's traffic (2016 and 2017). The
# data have one row an hour all year, so their clock has no daylight saving.
CALENDAR: dict[str, Any] = {
    "gaps": "fill",
    "derived": {
        "hour_sin": {"of": "hour", "form": "sin"},
        "hour_cos": {"of": "hour", "form": "cos"},
        "weekday_sin": {"of": "weekday", "form": "sin"},
        "weekday_cos": {"of": "weekday", "form": "cos"},
        "holiday_next": {"of": "holiday", "country": "US", "without": ["Columbus Day", "Veterans Day"], "shift": 1},
    },
}
FEATURES = ("volume", *CALENDAR["derived"])
TEST_HOURS = 1440
DAY, WEEK = 24, 168
LEVELS = 16
MISSING = LEVELS  # the token id of an hour without a measurement


@dataclass(frozen=True)
class Series:
    """One row an hour, without holes: `timestamps` `[N]` datetime64[h], `volume` `[N]` vehicles per hour, NaN where not measured."""

    timestamps: Hours
    volume: Floats

    def __len__(self) -> int:
        return len(self.volume)

    def until(self, hour: int) -> "Series":
        """The rows before `hour`."""
        return self.between(None, hour)

    def between(self, first: int | None, end: int | None) -> "Series":
        """The rows from `first` to before `end`, as a slice."""
        return Series(self.timestamps[first:end], self.volume[first:end])


def load(path: Path = PATH) -> Series:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    timestamps = np.array([row["datetime"] for row in rows], dtype="datetime64[h]")
    volume = np.array([row["traffic_volume"] or "nan" for row in rows], dtype=np.float32)
    return Series(timestamps, volume)


def write_csv(series: Series, path: Path) -> Path:
    """Write a series as `python -m export build --calibrate` reads it; what was not measured is left empty."""
    rows = [f"{time}:00:00,{'' if np.isnan(volume) else volume}" for time, volume in zip(series.timestamps, series.volume, strict=True)]
    path.write_text("\n".join(["time,volume", *rows]) + "\n", encoding="utf-8")
    return path


def calendar(timestamps: Hours) -> Floats:
    """timestamps `[N]` -> `[N, K]`: the features that do not feed back, `FEATURES[1:]`, as the service computes them from times."""
    return Calendar.from_document(CALENDAR, FREQUENCY).features(timestamps.astype("datetime64[s]").astype(np.int64).tolist())


def holidays(timestamps: Hours) -> NDArray[np.bool_]:
    """timestamps `[N]` -> `[N]`: in a US federal holiday that counts here, or in the day on which it is observed."""
    return calendar(timestamps - np.timedelta64(1, "h"))[:, -1] > 0


def weekday(timestamps: Hours) -> Ints:
    """timestamps `[N]` -> `[N]`, 0 for Monday."""
    return (timestamps.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday


def filled(volume: Floats) -> Floats:
    """volume `[N]` -> `[N]`: an hour without a measurement takes the value of a week earlier, or of a day or an hour earlier."""
    result = volume.copy()
    for hour in np.flatnonzero(np.isnan(volume)):
        lag = next((lag for lag in (WEEK, DAY, 1) if lag <= hour), None)
        if lag is None:
            raise ValueError("volume[0]: the first hour must be measured, nothing before it can stand in; start the series later")
        result[hour] = result[hour - lag]
    return result


def inputs(series: Series) -> Floats:
    """The model's input rows `[N, F]` in `FEATURES` order, holes filled; row t is what is known at the end of hour t."""
    return np.concatenate([filled(series.volume)[:, None], calendar(series.timestamps)], axis=1)


def window(series: Series, end: int, hours: int) -> Floats:
    """The last `hours` input rows before row `end`, `[hours, F]`: what forecasts the volume of hour `end`."""
    if not 0 < hours <= end <= len(series):
        raise ValueError(f"window: expected 0 < hours <= end <= {len(series)}, got hours={hours}, end={end}")
    return inputs(series)[end - hours : end]


def future(timestamp: np.datetime64, hours: int) -> Floats:
    """The calendar `[hours, K]` of the hours after `timestamp`, to roll a forecast forward."""
    return calendar(timestamp.astype("datetime64[h]") + np.arange(1, hours + 1))


def level_edges(volume: Floats) -> list[float]:
    """The `LEVELS - 1` quantiles that part the measured volumes into levels of equal size."""
    shares = np.arange(1, LEVELS) / LEVELS
    return [float(edge) for edge in np.nanquantile(volume, shares).round()]


def tokens(volume: Floats, edges: Sequence[float]) -> Ints:
    """volume (any shape) -> ids of that shape: the number of edges at or below the volume, `MISSING` for NaN."""
    levels = np.searchsorted(np.asarray(edges), volume, side="right")
    return np.where(np.isnan(volume), MISSING, levels).astype(np.int64)
