"""Measure how far a model's forecasts are off, on a series that its training did not see: the errors behind its intervals.

The series runs through the exported artefact as a stream would, step by step, with its own predictions where nothing was measured. A
forecast is made at every step, and compared with what came.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellstate_series import NAME, TIME, SeriesFileError, number, opened
from export.errors import CalibrationError
from export.verify.runners import Runner
from handlers.errors import ConfigurationError, InvalidInput
from handlers.forecasting.distributions import distributions
from handlers.forecasting.observations import Timeline
from handlers.signature import Signature

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

LEVELS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)  # percent
BINS = 8  # of a forecast's size, for each of which errors have a scale
MIN_IN_BIN = 20
MIN_FORECASTS = 100
MAX_GAP = 10_000  # steps of a series' gap that are filled as missing
BATCH = 256


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of a series and what came: `[N, H, O]` each, NaN where nothing was measured."""

    values: Doubles
    observed: Doubles

    @property
    def errors(self) -> Doubles:
        return np.abs(self.observed - self.values)


def calibrate(path: Path, signature: Signature, runner: Runner, initial: Floats, horizon: int, season: int = 1) -> dict[str, Any]:
    """Return the `intervals` of the signature, measured on the series in `path`; of a model of distributions only what MASE is relative to.

    `initial` is the state of a new stream, `[S]`. `season` is after how many steps the naive forecast repeats a value.

    Raises:
        CalibrationError: the series cannot be read or is too short, or the model cannot forecast what is observed.
    """
    check(signature)
    rows = read(path, signature)
    if signature.distribution:
        return {"series": path.name, **_naive(rows, signature, season)}
    made = forecasts(rows, signature, runner, initial, horizon)
    tables = fitted(made)
    return {"series": path.name, "forecasts": len(made.values), "covered": covered(made), **tables, **_naive(rows, signature, season)}


def check(signature: Signature) -> None:
    """Check that every prediction of the model comes true in its inputs. Raises CalibrationError."""
    if not signature.streaming or {signature.outputs[output] for output in _predicted(signature)} != set(signature.feedback):
        raise CalibrationError("calibrate: the model must stream, and each of its outputs feed back: what does not is never observed")


def _predicted(signature: Signature) -> Sequence[int]:
    """Return the outputs that are predictions, in the order of their series."""
    known = distributions(signature)
    return [distribution.prediction for distribution in known] if known else range(len(signature.outputs))


def read(path: Path, signature: Signature) -> Floats:
    """Read a series as input rows `[N, F]` from CSV or Parquet: columns `time` and what is not derived, or all features.

    Raises:
        CalibrationError: the file or a value cannot be read.
    """
    try:
        timeline = Timeline.of(signature)
        names = signature.features if timeline is None else timeline.names((*timeline.fed, *timeline.given))
        return _read(path, signature.features, names, timeline)
    except (SeriesFileError, InvalidInput) as e:
        raise CalibrationError(str(e)) from e
    except ConfigurationError as e:
        raise CalibrationError(f"{path}: {e}") from e


def _read(path: Path, features: Sequence[str], names: Sequence[str], timeline: Timeline | None) -> Floats:
    lines, readings, places, found = list[list[float]](), list[tuple[int, int]](), list[str](), set[str]()
    with opened(path) as rows:
        columns = [(rows.column(name), name) for name in names]
        time = None if timeline is None else rows.column(TIME)
        series = rows.header.index(NAME) if NAME in rows.header and NAME not in features else None
        for where, row in rows.rows:
            lines.append([number(row[i], where, name) for i, name in columns])
            if timeline is not None and time is not None:
                places.append(f"{where}: {TIME}")
                readings.append(timeline.calendar.parse(row[time], places[-1]))
            if series is not None:
                found.add(row[series])
    if len(found) > 1:
        raise SeriesFileError(f"{path}: {len(found):,} series in column {NAME!r}; calibrate takes one: leave the rows of the others out")
    values = np.full((len(lines), len(features)), np.nan, np.float32)
    if not lines:
        return values
    values[:, [features.index(name) for name in names]] = np.array(lines, np.float64)
    return values if timeline is None else timeline.place(values, np.array(readings, np.int64), None, MAX_GAP, places)[0]


def forecasts(rows: Floats, signature: Signature, runner: Runner, initial: Floats, horizon: int) -> Forecasts:
    """Run a series `[N, F]` as a stream, and forecast `horizon` steps from every step of its last three quarters.

    Raises:
        CalibrationError: the series is too short.
    """
    columns = [feature for _, feature in sorted(signature.feedback_columns)]  # in the order of the outputs
    start = int(np.argmax(~np.isnan(rows[:, columns]).any(axis=1))) if len(rows) else 0
    rows = rows[start:]
    if len(rows) < MIN_FORECASTS + horizon:
        needed = MIN_FORECASTS + horizon
        raise CalibrationError(f"calibrate: {len(rows)} steps; a horizon of {horizon} needs at least {needed}, better many times that")
    first = min(len(rows) // 4, len(rows) - MIN_FORECASTS - horizon)
    observed = rows[:, columns].astype(np.float64)
    y, states = _streamed(rows, columns, signature, runner, initial)
    origins = np.arange(first, len(rows) - horizon)
    made = [_rolled(origins[i : i + BATCH], rows, columns, y, states, runner, horizon) for i in range(0, len(origins), BATCH)]
    ahead = origins[:, None] + np.arange(1, horizon + 1)
    return Forecasts(np.concatenate(made).astype(np.float64), observed[ahead])


def _streamed(
    rows: Floats, columns: Sequence[int], signature: Signature, runner: Runner, initial: Floats
) -> tuple[Floats, list[torch.Tensor]]:
    """Return the prediction after every step `[N, O]`, and the state tensors after it, `[rows, N, size]` each."""
    states = _initial(signature, initial)
    ys, kept = list[Floats](), list[Sequence[torch.Tensor]]()
    for row in rows.copy():
        missing = np.isnan(row[columns])
        if missing.any():
            row[columns] = np.where(missing, ys[-1], row[columns])
        if np.isnan(row).any():
            raise CalibrationError("calibrate: a value is missing that the model does not predict")
        y, _, *states = runner(torch.from_numpy(row[None, None]), states)
        ys.append(_last(y))
        kept.append(states)
    return np.concatenate(ys), [torch.cat(list(parts), dim=1) for parts in zip(*kept, strict=True)]


def _initial(signature: Signature, initial: Floats) -> list[torch.Tensor]:
    """Cut `[S]` into the state tensors of one row, `[rows, 1, size]`."""
    ends = list(itertools.accumulate(entry.length for entry in signature.state))
    parts = np.split(initial, ends[:-1])
    return [torch.from_numpy(part.reshape(entry.rows, 1, entry.size).copy()) for part, entry in zip(parts, signature.state, strict=True)]


def _rolled(
    origins: npt.NDArray[np.int64],
    rows: Floats,
    columns: Sequence[int],
    predictions: Floats,
    states: Sequence[torch.Tensor],
    runner: Runner,
    horizon: int,
) -> Floats:
    """Return the forecasts `[B, H, O]` from those steps of the series."""
    carried, y, made = [state[:, origins].contiguous() for state in states], predictions[origins], []
    for ahead in range(1, horizon + 1):
        made.append(y)
        if ahead < horizon:
            x = rows[origins + ahead].copy()
            x[:, columns] = y
            result, _, *carried = runner(torch.from_numpy(x[:, None]), carried)
            y = _last(result)
    return np.stack(made, axis=1)


def _last(y: torch.Tensor) -> Floats:
    """`[B, O]` of `[B, O]` or `[B, T, O]`."""
    array: Floats = y.numpy() if y.ndim == 2 else y[:, -1].numpy()
    return array


def fitted(made: Forecasts) -> dict[str, Any]:
    """Return the tables of handlers/forecasting/intervals.py: edges, scales and quantiles."""
    outputs = made.values.shape[2]
    tables = [_fitted(made.values[:, :, o], made.errors[:, :, o]) for o in range(outputs)]
    edges, scales, quantiles = ([_rounded(table[i]) for table in tables] for i in range(3))
    return {"levels": list(LEVELS), "edges": edges, "scales": scales, "quantiles": quantiles}


def _naive(rows: Floats, signature: Signature, season: int) -> dict[str, Any]:
    """Return the mean absolute error of the seasonal naive forecast of each series, which scores are relative to."""
    fed = dict(signature.feedback_columns)
    values = rows[:, [fed[output] for output in _predicted(signature)]].astype(np.float64)
    errors = np.abs(values[season:] - values[:-season])
    if not len(errors) or not (~np.isnan(errors)).any(axis=0).all():
        raise CalibrationError(f"calibrate: no two measurements lie {season} steps apart (season)")
    return {"season": season, "naive": np.maximum(np.nanmean(errors, axis=0), 1e-12).tolist()}


def _rounded(table: Doubles) -> Any:
    """Return the numbers of a table to six digits, which is finer than they are known."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(table).tolist()


def _fitted(values: Doubles, errors: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return edges `[E]`, scales `[H, E + 1]` and quantiles `[L, H]` of one output, from `[N, H]`."""
    edges = np.quantile(values, np.arange(1, BINS) / BINS)
    bins, horizon = np.searchsorted(edges, values), values.shape[1]
    scales, quantiles = np.empty((horizon, BINS)), np.empty((len(LEVELS), horizon))
    fewest = int((~np.isnan(errors)).sum(axis=0).min())
    if fewest < MIN_FORECASTS // 2:
        raise CalibrationError(f"calibrate: {fewest} measurements to compare forecasts with, at least {MIN_FORECASTS // 2} are needed")
    smallest = np.nanmean(errors) * 1e-3  # errors that were all zero must not make intervals of no width
    for h in range(horizon):
        known = ~np.isnan(errors[:, h])
        overall = errors[known, h].mean()
        for b in range(BINS):
            chosen = errors[known & (bins[:, h] == b), h]
            scales[h, b] = max(chosen.mean() if len(chosen) >= MIN_IN_BIN else overall, smallest, 1e-12)
        scores, count = (errors[:, h] / scales[h, bins[:, h]])[known], int(known.sum())
        shares = np.minimum(np.array(LEVELS) / 100 * (1 + 1 / count), 1)  # of n + 1 exchangeable errors the last is yet to come
        quantiles[:, h] = np.maximum(np.quantile(scores, shares, method="higher"), 1e-6)
    return edges, scales, quantiles


def covered(made: Forecasts) -> list[str]:
    """Tell how often the intervals of the first half of the forecasts covered what came in the second, without adaptation."""
    half = len(made.values) // 2
    try:
        edges, scales, quantiles = _fitted(made.values[:half, :, 0], made.errors[:half, :, 0])
    except CalibrationError:  # enough for the whole, not for a half
        return []
    values, errors = made.values[half:, :, 0], made.errors[half:, :, 0]
    lines = []
    for level in (80, 95):
        width = quantiles[LEVELS.index(level)] * scales[np.arange(values.shape[1]), np.searchsorted(edges, values)]
        share = np.mean((errors <= width)[~np.isnan(errors)])
        lines.append(f"those of its first half for {level} % cover {100 * share:.1f} % of its second")
    return lines
