"""Autoregressive rollouts: each prediction is fed back as the next step's input, beside the inputs that are known in advance."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handlers.arrays import Floats
from handlers.inference.backends.base import Backend, BackendError
from handlers.inference.batching import DeadlineExceeded, split
from handlers.signature import Signature


@dataclass(slots=True)
class RolloutRow:
    """One forecast to be made: from where, and how far.

    forecast[0] is `prediction`, and forecast[i] follows from feeding back forecast[i-1] beside future[i-1], the known inputs of that same
    step. So the last row of `future` belongs to the last forecast and is not fed.
    """

    prediction: Floats  # [O], the last one that the row's inputs gave
    state: Floats  # [S], after the row's inputs
    horizon: int
    future: Floats | None = None  # [horizon, K]


def rollout(
    backend: Backend, signature: Signature, rows: Sequence[RolloutRow], max_batch: int, deadline: float = math.inf
) -> list[Floats | BackendError]:
    """Return the forecast `[horizon, O]` of each row, or why the runtime could not make it. `deadline` is monotonic seconds.

    Longer horizons come first in a batch, so that it shrinks from the end as rows are done. Where the runtime fails on a batch, each of its
    rows is rolled out alone.
    """
    results: list[Floats | BackendError] = [np.empty(0, np.float32)] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -rows[i].horizon)
    for start in range(0, len(order), max_batch):
        chosen = order[start : start + max_batch]
        for i, result in zip(chosen, _rollout_each(backend, signature, [rows[i] for i in chosen], deadline), strict=True):
            results[i] = result
    return results


def _rollout_each(backend: Backend, signature: Signature, rows: list[RolloutRow], deadline: float) -> Sequence[Floats | BackendError]:
    try:
        return _rollout(backend, signature, rows, deadline)
    except BackendError as e:
        if len(rows) == 1 or isinstance(e, DeadlineExceeded):
            return [e] * len(rows)
        return [result for row in rows for result in _rollout_each(backend, signature, [row], deadline)]


def _rollout(backend: Backend, signature: Signature, rows: list[RolloutRow], deadline: float) -> list[Floats]:
    """Roll out rows that descend in horizon."""
    horizons = [row.horizon for row in rows]
    y = np.stack([row.prediction for row in rows])
    forecasts = np.empty((len(rows), horizons[0], y.shape[1]), np.float32)
    forecasts[:, 0] = y
    future = _known(rows, signature)
    states = split(np.stack([row.state for row in rows]), signature)
    live = len(rows)
    for i in range(1, horizons[0]):
        if time.monotonic() > deadline:
            raise DeadlineExceeded("the batch took too long")
        while horizons[live - 1] <= i:
            live -= 1
        if live < len(y):
            y, states = y[:live], tuple(np.ascontiguousarray(state[:, :live]) for state in states)
        x = np.empty((live, 1, len(signature.features)), np.float32)
        for output, feature in signature.feedback_columns:
            x[:, 0, feature] = y[:, output]
        x[:, 0, list(signature.future_columns)] = future[:live, i - 1]
        given = backend.run(x, states, want_output=False)
        y, states = given.y if given.y.ndim == 2 else given.y[:, -1], given.states
        forecasts[:live, i] = y
    return [forecast[:horizon] for forecast, horizon in zip(forecasts, horizons, strict=True)]


def _known(rows: list[RolloutRow], signature: Signature) -> Floats:
    """Return the inputs known in advance, `[B, horizon, K]`; rows with a shorter horizon end in zeros, which nobody reads."""
    known = np.zeros((len(rows), rows[0].horizon, len(signature.future_columns)), np.float32)
    for i, row in enumerate(rows):
        if row.future is not None:
            known[i, : row.horizon] = row.future
    return known
