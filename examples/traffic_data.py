"""The traffic data as arrays: loading, the features known in advance, filled inputs, and a day as token ids.

NumPy only. Knows the file and the calendar; knows no model, no normalisation and no server.
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Hours = NDArray[np.datetime64]

PATH = Path(__file__).parent / "data" / "metro-interstate-traffic-hourly.csv.gz"
FEATURES = ("volume", "hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "holiday_next")
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
        return Series(self.timestamps[:hour], self.volume[:hour])


def load(path: Path = PATH) -> Series:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    timestamps = np.array([row["datetime"] for row in rows], dtype="datetime64[h]")
    volume = np.array([row["traffic_volume"] or "nan" for row in rows], dtype=np.float32)
    return Series(timestamps, volume)


def calendar(timestamps: Hours) -> Floats:
    """timestamps `[N]` -> `[N, K]`: the features that do not feed back, `FEATURES[1:]`.

    Hour and weekday are those of the row itself; `holiday_next` is 1 when the hour being forecast, the one after the row, is in a
    holiday: traffic changes at midnight, and a row of 23:00 can only announce it that way.
    """
    hour = _hours(timestamps) % DAY
    holiday = holidays(timestamps + np.timedelta64(1, "h"))
    columns = [*_circle(hour, DAY), *_circle(weekday(timestamps), 7), holiday]
    return np.stack(columns, axis=1).astype(np.float32)


def weekday(timestamps: Hours) -> Ints:
    """timestamps `[N]` -> `[N]`, 0 for Monday."""
    return (_hours(timestamps) // DAY + 3) % 7  # 1970-01-01 was a Thursday


def _hours(timestamps: Hours) -> Ints:
    return timestamps.astype("datetime64[h]").astype(np.int64)


def _circle(value: Ints, period: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    angle = 2 * np.pi * value / period
    return np.sin(angle), np.cos(angle)


def holidays(timestamps: Hours) -> NDArray[np.bool_]:
    """timestamps `[N]` -> `[N]`: in a US federal holiday, or in the day on which it is observed.

    Without Columbus Day and Veterans Day: on them the road is within a tenth of a workday's traffic (2016 and 2017).
    """
    days = timestamps.astype("datetime64[D]")
    if not len(days):
        return np.zeros(0, dtype=np.bool_)
    years = range(days.min().item().year, days.max().item().year + 2)  # + 2: a New Year's Day may be observed in the year before
    return np.isin(days, np.array([day for year in years for day in holidays_of(year)], dtype="datetime64[D]"))


def holidays_of(year: int) -> list[date]:
    """Eight holidays of 5 U.S.C. 6103; a fixed date on a weekend counts itself and the workday that is free in its place."""
    fixed = [date(year, 1, 1), date(year, 7, 4), date(year, 12, 25)]
    moving = [_nth(year, 1, 0, 3), _nth(year, 2, 0, 3), _nth(year, 6, 0, 0), _nth(year, 9, 0, 1), _nth(year, 11, 3, 4)]
    return fixed + [_observed(day) for day in fixed] + moving


def _nth(year: int, month: int, wanted: int, nth: int) -> date:
    """The nth `wanted` weekday of a month; the zeroth is the last one of the month before."""
    first = date(year, month, 1)
    return first + timedelta(days=(wanted - first.weekday()) % 7 + 7 * (nth - 1))


def _observed(day: date) -> date:
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


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
