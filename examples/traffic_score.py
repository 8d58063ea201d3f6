"""How good a traffic forecast is: the model's and two naive ones', 1 to 24 hours ahead, on the same hours.

Runs a `Forecaster` as a service would: one row at a time from the first hour on, state carried, holes filled by its own prediction.
Knows no training, no files and no plots.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.traffic_data import DAY, WEEK, Floats, Series, calendar, inputs
from export.models import Forecaster

HORIZON = DAY

State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Stream:
    """What carrying one stream through N hours leaves: y `[N]`, and the state after every hour, h and c `[L, N, H]`."""

    y: Tensor
    h: Tensor
    c: Tensor


@dataclass(frozen=True)
class Scores:
    """Mean absolute errors in vehicles per hour, each `[HORIZON]`, and how many pairs of origin and target each horizon counted."""

    persistence: NDArray[np.float64]
    seasonal: NDArray[np.float64]
    model: NDArray[np.float64]
    counted: NDArray[np.int64]


def advance(model: Forecaster, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """x `[B, T, F]` -> y `[B, T]`, state: what `Forecaster.forward` computes at every step, with the state in hand."""
    output, state = model.lstm((x - model.mean) / model.std, state)
    y: Tensor = model.head(output) * model.output_std + model.output_mean
    return y[..., 0], state


def roll(model: Forecaster, y: Tensor, state: State, known: Tensor) -> tuple[Tensor, State]:
    """y `[B]`, known `[B, n, K]` -> `[B, n]`, state: n further hours, each fed the prediction of the one before and its calendar."""
    result = []
    for hour in range(known.shape[1]):
        row = torch.cat([y[:, None], known[:, hour]], dim=1)  # [B, F]
        step, state = advance(model, row[:, None], state)
        y = step[:, 0]
        result.append(y)
    return torch.stack(result, dim=1), state


@torch.inference_mode()
def stream(model: Forecaster, series: Series) -> Stream:
    """y[t] forecasts hour t + 1. The first hour must be measured."""
    rows = torch.from_numpy(inputs(series))  # [N, F]
    missing = np.isnan(series.volume)
    state: State | None = None
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for hour in range(len(series)):
        if missing[hour]:
            rows[hour, 0] = steps[-1][0]
        y, state = advance(model, rows[None, hour : hour + 1], state)
        steps.append((y[0, 0], state[0][:, 0], state[1][:, 0]))
    ys, hs, cs = zip(*steps, strict=True)
    return Stream(torch.stack(ys), torch.stack(hs, dim=1), torch.stack(cs, dim=1))


@torch.inference_mode()
def forecasts(model: Forecaster, series: Series, carried: Stream, first: int) -> Floats:
    """`[O, HORIZON]`: a rollout from each of the O hours `first - 1 .. N - 2`, no measurement after the origin used."""
    origins = np.arange(first - 1, len(series) - 1)
    hours = series.timestamps[origins][:, None] + np.arange(1, HORIZON)  # [O, HORIZON - 1]
    known = calendar(hours.reshape(-1)).reshape(*hours.shape, -1)
    state = carried.h[:, origins].contiguous(), carried.c[:, origins].contiguous()
    y = carried.y[origins]  # the first hour ahead
    rolled, _ = roll(model, y, state, torch.from_numpy(known))
    result: Floats = torch.cat([y[:, None], rolled], dim=1).numpy()
    return result


def score(series: Series, predicted: Floats, first: int) -> Scores:
    """predicted `[O, HORIZON]` against what was measured in the hours from `first` on.

    A pair of origin and target counts, for all three forecasts alike, when the target, the origin (persistence needs it) and the hour a
    week before the target (the seasonal forecast needs it) were all measured and the target is within the series.
    """
    origins = np.arange(first - 1, len(series) - 1)
    targets = origins[:, None] + np.arange(1, HORIZON + 1)  # [O, HORIZON]
    padded = np.concatenate([series.volume, np.full(HORIZON, np.nan, dtype=np.float32)])
    truth, persistence, seasonal = padded[targets], padded[origins][:, None], padded[targets - WEEK]
    counts = ~np.isnan(truth + persistence + seasonal)
    persistence_error, seasonal_error, model_error = (_mae(forecast - truth, counts) for forecast in (persistence, seasonal, predicted))
    return Scores(persistence_error, seasonal_error, model_error, counts.sum(axis=0))


def _mae(error: Floats, counts: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.abs(error).mean(axis=0, where=counts, dtype=np.float64)  # type: ignore[no-any-return]
