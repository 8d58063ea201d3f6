"""Rows of any length in one batch, exactly: run the steps that all rows have, then carry on with the rows that have more.

Nothing is padded, so nothing needs masking: a row's state after its last step is its state. A model that cannot stream must see each
sequence whole; its rows are grouped by length instead. NumPy only; this module knows neither requests nor sessions.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from handlers.inference.backends.base import Backend, BackendError, Floats
from handlers.sessions.state import Vector
from handlers.signature import Signature

PIECE = 512  # steps of one model run: what bounds the time between two looks at the clock


class OutOfTime(BackendError):
    """A row's turn came too late; nothing is wrong with it."""


@dataclass(slots=True)
class Row:
    """One sequence on its way through the model. `state` is replaced as the row advances."""

    x: npt.NDArray[np.generic]  # [T, F] float32 or [T] int64
    state: Vector  # [S]
    want_output: bool = False
    y: Floats | None = None  # [O], or [T, O] per step
    output: Floats | None = None  # [T, D*P]
    error: BackendError | None = None
    finite: bool = True  # every value that any run gave it
    pieces: list[tuple[Floats, Floats | None]] = field(default_factory=list)  # y and output of each run so far

    def forget(self, steps: int) -> None:
        """Leave out the first `steps` steps: they ran only for the state."""
        if steps:
            self.x = self.x[steps:]
            self.output = None if self.output is None else self.output[steps:]
            self.y = self.y[steps:] if self.y is not None and self.y.ndim == 2 else self.y


def split(values: Floats, signature: Signature) -> tuple[Floats, ...]:
    """`[B, S]` -> one contiguous `[L*D, B, size]` for each state tensor."""
    arrays, start = [], 0
    for entry in signature.state:
        part = values[:, start : start + entry.length].reshape(len(values), entry.rows, entry.size)
        arrays.append(np.ascontiguousarray(part.swapaxes(0, 1)))
        start += entry.length
    return tuple(arrays)


def join(states: Sequence[Floats]) -> Floats:
    """The inverse of `split`: `[B, S]`."""
    return np.concatenate([s.swapaxes(0, 1).reshape(s.shape[1], -1) for s in states], axis=1)


def run(backend: Backend, signature: Signature, rows: Sequence[Row], max_batch: int, deadline: float = math.inf) -> None:
    """Run every row over all its steps; fills `y`, `output`, `state`, or `error`. Short rows first; `deadline` is monotonic seconds."""
    ordered = sorted(rows, key=lambda row: len(row.x))
    for start in range(0, len(ordered), max_batch):
        _run_ragged(backend, signature, ordered[start : start + max_batch], deadline)
    for row in rows:
        if row.error is None:
            _finish(row, signature)


def _run_ragged(backend: Backend, signature: Signature, rows: Sequence[Row], deadline: float) -> None:
    """`rows` ascend in length."""
    done = 0
    while rows:
        if time.monotonic() > deadline:
            _give_up(rows)
            return
        length = len(rows[0].x)
        shortest = sum(len(row.x) == length for row in rows)
        if signature.streaming:
            stop = min(length, done + PIECE)
            _run_piece(backend, signature, rows, done, stop)
            done, rows = stop, rows[shortest:] if stop == length else rows
        else:
            _run_piece(backend, signature, rows[:shortest], 0, length)
            rows = rows[shortest:]


def _give_up(rows: Iterable[Row]) -> None:
    for row in rows:
        row.error = row.error or OutOfTime("the batch took too long")


def _run_piece(backend: Backend, signature: Signature, rows: Sequence[Row], start: int, stop: int) -> None:
    """Steps `start .. stop` of every row in one model run; when the runtime fails, each row alone, so that one cannot harm another."""
    live = [row for row in rows if row.error is None]
    try:
        _step(backend, signature, live, start, stop)
    except BackendError as e:
        if len(live) == 1:
            live[0].error = e
            return
        for row in live:
            _run_piece(backend, signature, [row], start, stop)


def _step(backend: Backend, signature: Signature, rows: Sequence[Row], start: int, stop: int) -> None:
    if not rows:
        return
    x = np.stack([row.x[start:stop] for row in rows])  # [B, T, F]
    want_output = any(row.want_output for row in rows)
    result = backend.run(x, split(np.stack([row.state for row in rows]), signature), want_output)
    states = join(result.states)  # [B, S]
    finite = _finite(states, result.y)
    for i, row in enumerate(rows):
        # For a model with one y a sequence, the y where a neighbour ends is nobody's result.
        row.state, row.finite = states[i], finite[i] and (row.finite or signature.per == "sequence")
        row.pieces.append((result.y[i], result.output[i] if result.output is not None and row.want_output else None))


def _finite(*arrays: Floats) -> list[bool]:
    """For each of the B rows: are all its values numbers? Arrays are `[B, …]`."""
    checks = [np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in arrays]
    return list(np.logical_and.reduce(checks).tolist())


def _finish(row: Row, signature: Signature) -> None:
    ys, outputs = zip(*row.pieces, strict=True)
    row.y = ys[-1] if signature.per == "sequence" else np.concatenate(ys)
    if row.want_output:
        row.output = np.concatenate(outputs)
        row.finite = row.finite and bool(np.isfinite(row.output).all())
    row.pieces = []


def roll(
    backend: Backend, signature: Signature, rows: Sequence[tuple[Row, int, Floats | None]], max_batch: int, deadline: float = math.inf
) -> list[Floats]:
    """Carry rows forward on their own predictions: (finished row, horizon n, future `[n, K]` or None) -> forecasts `[n, O]`.

    A row whose forecast fails in the runtime gets its `error`.

    forecast[0] is the row's last prediction; forecast[i] follows from feeding back forecast[i-1] beside future[i-1], the known inputs
    of that same step. So the last row of `future` describes the last forecast and is not fed. The rows themselves stay as they are.
    """
    forecasts = [[_last(row)] for row, _, _ in rows]
    shadows = [Row(row.x, row.state) for row, _, _ in rows]
    for i in range(1, max((n for _, n, _ in rows), default=0)):
        live = [k for k, (_, n, _) in enumerate(rows) if i < n and shadows[k].error is None]
        for k in live:
            shadows[k].x = _fed(forecasts[k][-1], rows[k][2], i - 1, signature)
        run(backend, signature, [shadows[k] for k in live], max_batch, deadline)
        for k in live:
            rows[k][0].error = shadows[k].error
            if shadows[k].error is None:
                forecasts[k].append(_last(shadows[k]))
    return [np.stack(forecast) for forecast in forecasts]


def _last(row: Row) -> Floats:
    assert row.y is not None  # `run` filled it
    return row.y if row.y.ndim == 1 else row.y[-1]


def _fed(y: Floats, future: Floats | None, i: int, signature: Signature) -> Floats:
    """One input step `[1, F]` from a prediction `[O]` and what is known in advance."""
    x = np.empty((1, len(signature.features)), np.float32)
    for output, feature in signature.feedback_columns:
        x[0, feature] = y[output]
    if future is not None:
        x[0, list(signature.future_columns)] = future[i]
    return x
