"""Autoregressive rollouts: each prediction is fed back as the next step's input, beside the inputs that are known in advance.

A forecast is rolled out on the model's predictions. A model of distributions is rolled out along sampled paths, too: each path feeds back
the values that were drawn from its own distributions. Forecasts and paths of all requests are rows of the same batch.
"""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handlers.arrays import Floats
from handlers.forecasting.distributions import Distribution, distributions
from handlers.inference.backends.base import Backend, BackendError, Run
from handlers.inference.batching import DeadlineExceeded, split
from handlers.signature import Signature


@dataclass(slots=True)
class RolloutRow:
    """One forecast to be made: from where, how far, and along how many sampled paths.

    forecast[0] is `prediction`, and forecast[i] follows from feeding back forecast[i-1] beside future[i-1], the known inputs of that same
    step. So the last row of `future` belongs to the last forecast and is not fed. `seed` decides what is drawn.
    """

    prediction: Floats  # [O], the last one that the row's inputs gave
    state: Floats  # [S], after the row's inputs
    horizon: int
    future: Floats | None = None  # [horizon, K]
    paths: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a row's rollout gives."""

    forecast: Floats  # [horizon, O]
    samples: Floats  # [paths, horizon, P], the values drawn for the P predictions

    @property
    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return bool(np.isfinite(self.forecast).all() and np.isfinite(self.samples).all())


def rollout(
    backend: Backend, signature: Signature, rows: Sequence[RolloutRow], max_batch: int, deadline: float = math.inf
) -> list[Rollout | BackendError]:
    """Return the rollout of each row, or why the runtime could not make it. `deadline` is monotonic seconds.

    Longer horizons come first in a batch, so that it shrinks from the end as rows are done. Where the runtime fails on a batch, each of its
    rows is rolled out alone.
    """
    results: dict[int, Rollout | BackendError] = {}
    order = sorted(range(len(rows)), key=lambda i: -rows[i].horizon)
    for chosen in _batches(order, rows, max_batch):
        made = _rollout_each(backend, signature, [rows[i] for i in chosen], max_batch, deadline)
        results.update(zip(chosen, made, strict=True))
    return [results[i] for i in range(len(rows))]


def _batches(order: Sequence[int], rows: Sequence[RolloutRow], max_batch: int) -> list[list[int]]:
    """Cut the order into batches of at most `max_batch` forecasts and paths; a row is never cut."""
    batches, size = list[list[int]](), max_batch
    for i in order:
        count = 1 + rows[i].paths
        if size + count > max_batch:
            batches.append([])
            size = 0
        batches[-1].append(i)
        size += count
    return batches


def _rollout_each(
    backend: Backend, signature: Signature, rows: list[RolloutRow], max_batch: int, deadline: float
) -> Sequence[Rollout | BackendError]:
    try:
        return _Rollouts(signature, rows).run(backend, max_batch, deadline)
    except BackendError as e:
        if len(rows) == 1 or isinstance(e, DeadlineExceeded):
            return [e] * len(rows)
        return [result for row in rows for result in _rollout_each(backend, signature, [row], max_batch, deadline)]


class _Rollouts:
    """Rows that descend in horizon. In the batch each row has a line for its forecast, then one for each of its paths."""

    def __init__(self, signature: Signature, rows: list[RolloutRow]) -> None:
        self._signature, self._rows = signature, rows
        self._lines = [1 + row.paths for row in rows]
        self._paths = [slice(end - row.paths, end) for row, end in zip(rows, itertools.accumulate(self._lines), strict=True)]
        self._sampled = [i for i, row in enumerate(rows) if row.paths]
        self._distributions: Sequence[Distribution] = distributions(signature) if self._sampled else ()
        self._random = {i: np.random.Generator(np.random.PCG64(rows[i].seed)) for i in self._sampled}

    def run(self, backend: Backend, max_batch: int, deadline: float) -> list[Rollout]:
        """Roll the rows out.

        Raises:
            BackendError: the runtime failed, or the deadline passed.
        """
        rows, signature, lines = self._rows, self._signature, self._lines
        y = _repeated(np.stack([row.prediction for row in rows]), lines)
        states = split(_repeated(np.stack([row.state for row in rows]), lines), signature)
        fed = np.empty((len(y), rows[0].horizon, y.shape[1]), np.float32)  # each line's values at each step
        future, live = _known(rows, signature), len(rows)
        for i in range(rows[0].horizon):
            while rows[live - 1].horizon <= i:
                live -= 1
            if i:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded("the batch took too long")
                x = self._next_inputs(fed[: sum(lines[:live]), i - 1], future[:live, i - 1], lines[:live])
                y, states = _run(backend, x, tuple(np.ascontiguousarray(state[:, : len(x)]) for state in states), max_batch)
            fed[: len(y), i] = y
            for row in self._sampled:
                if row < live:
                    self._draw(row, y, fed[:, i])
        drawn = np.take(fed, signature.prediction_columns, axis=-1) if signature.prediction_columns else fed
        return [
            Rollout(fed[paths.start - 1, : row.horizon], drawn[paths, : row.horizon]) for row, paths in zip(rows, self._paths, strict=True)
        ]

    def _draw(self, row: int, y: Floats, fed: Floats) -> None:
        """Replace the predictions on the row's paths by values drawn from their distributions."""
        paths = self._paths[row]
        for distribution in self._distributions:
            fed[paths, distribution.prediction] = distribution.draw(y[paths], self._random[row])

    def _next_inputs(self, fed: Floats, future: Floats, lines: Sequence[int]) -> Floats:
        """Return the inputs `[lines, 1, F]` of one step: what feeds back `[lines, O]`, and what is known in advance `[rows, K]`."""
        x = np.empty((len(fed), 1, len(self._signature.features)), np.float32)
        for output, feature in self._signature.feedback_columns:
            x[:, 0, feature] = fed[:, output]
        x[:, 0, list(self._signature.future_columns)] = _repeated(future, lines)
        return x


def _repeated(array: Floats, lines: Sequence[int]) -> Floats:
    """Repeat each row as often as its lines say."""
    return array if len(array) == sum(lines) else np.repeat(array, lines, axis=0)


def _run(backend: Backend, x: Floats, states: tuple[Floats, ...], max_batch: int) -> tuple[Floats, tuple[Floats, ...]]:
    """Run one step of all lines, at most `max_batch` at a time; return y `[lines, O]` and the states."""
    if len(x) <= max_batch:
        return _predicted(backend.run(x, states, want_output=False))
    parts = [slice(start, start + max_batch) for start in range(0, len(x), max_batch)]
    runs = [
        _predicted(backend.run(x[part], tuple(np.ascontiguousarray(state[:, part]) for state in states), want_output=False))
        for part in parts
    ]
    joined = tuple(np.concatenate(tensors, axis=1) for tensors in zip(*(states for _, states in runs), strict=True))
    return np.concatenate([y for y, _ in runs]), joined


def _predicted(given: Run) -> tuple[Floats, tuple[Floats, ...]]:
    return given.y if given.y.ndim == 2 else given.y[:, -1], given.states


def _known(rows: list[RolloutRow], signature: Signature) -> Floats:
    """Return the inputs known in advance, `[B, horizon, K]`; rows with a shorter horizon end in zeros, which nobody reads."""
    known = np.zeros((len(rows), rows[0].horizon, len(signature.future_columns)), np.float32)
    for i, row in enumerate(rows):
        if row.future is not None:
            known[i, : row.horizon] = row.future
    return known
