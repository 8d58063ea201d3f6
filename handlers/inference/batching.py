"""Runs sequences of any length in one batch: the steps that all rows have first, then on with the rows that have more.

Nothing is padded, so nothing is masked: a row's state after its last step is its state. A model that cannot stream must see each sequence
whole; its rows are grouped by length instead.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.arrays import Array, Floats
from handlers.inference.backends.base import Backend, BackendError
from handlers.signature import Signature

CHUNK_STEPS = 512  # steps of one model run, which bounds the time between two looks at the clock


class DeadlineExceeded(BackendError):
    """The deadline passed before a row's turn. Nothing is wrong with the row."""


@dataclass(slots=True)
class Results:
    """What B sequences give, row by row. A row with an error has no other result."""

    y: list[Floats | None]  # [O], or [T, O] per step
    output: list[Floats | None]  # [T, D*P] where it was wanted
    states: Floats  # [B, S], after the last step
    finite: list[bool]  # whether every value of the row is a number
    errors: list[BackendError | None]

    @classmethod
    def before(cls, states: Floats) -> "Results":
        """Return the results of rows that have not run: nothing but a copy of their states `[B, S]`."""
        count = len(states)
        return cls([None] * count, [None] * count, states.copy(), [True] * count, [None] * count)


def split(states: Floats, signature: Signature) -> tuple[Floats, ...]:
    """Cut `[B, S]` into one contiguous `[L*D, B, size]` for each state tensor."""
    arrays, start = [], 0
    for entry in signature.state:
        part = states[:, start : start + entry.length].reshape(len(states), entry.rows, entry.size)
        arrays.append(np.ascontiguousarray(part.swapaxes(0, 1)))
        start += entry.length
    return tuple(arrays)


def join(tensors: Sequence[Floats]) -> Floats:
    """Return the `[B, S]` that `split` cuts into these tensors."""
    rows = tensors[0].shape[1]
    states = np.empty((rows, sum(len(tensor) * tensor.shape[2] for tensor in tensors)), np.float32)
    start = 0
    for tensor in tensors:
        stop = start + len(tensor) * tensor.shape[2]
        states[:, start:stop].reshape(rows, len(tensor), -1)[...] = tensor.swapaxes(0, 1)  # a view: one copy, and no other
        start = stop
    return states


def run(
    backend: Backend,
    signature: Signature,
    inputs: Sequence[Array],
    states: Floats,
    want_output: Sequence[bool],
    max_batch: int,
    deadline: float = math.inf,
) -> Results:
    """Run every row over all its steps, short rows first.

    `inputs` are `[T, F]` or `[T]` each, `states` is `[B, S]`, `deadline` monotonic seconds. Where the runtime fails on a batch, each of its
    rows runs alone, so that only the rows to blame have an error.
    """
    return _BatchRun(backend, signature, inputs, states, want_output).run(max_batch, deadline)


class _BatchRun:
    """The rows of one call of `run`, and what they have given so far."""

    def __init__(
        self, backend: Backend, signature: Signature, inputs: Sequence[Array], states: Floats, want_output: Sequence[bool]
    ) -> None:
        self._backend, self._signature, self._inputs, self._want_output = backend, signature, inputs, want_output
        self._lengths = [len(row) for row in inputs]
        self._y: list[list[Floats]] = [[] for _ in inputs]  # of each run so far
        self._output: list[list[Floats]] = [[] for _ in inputs]
        self._results = Results.before(states)
        self._finite = np.ones(len(inputs), np.bool_)  # the states and y of each row

    def run(self, max_batch: int, deadline: float) -> Results:
        order = sorted(range(len(self._inputs)), key=self._lengths.__getitem__)
        for start in range(0, len(order), max_batch):
            self._run_ragged(order[start : start + max_batch], deadline)
        self._finish()
        return self._results

    def _run_ragged(self, rows: list[int], deadline: float) -> None:
        """Run rows that ascend in length."""
        done = 0
        while rows:
            if time.monotonic() > deadline:
                for row in rows:
                    self._results.errors[row] = self._results.errors[row] or DeadlineExceeded("the batch took too long")
                return
            length = self._lengths[rows[0]]
            shortest = bisect_right(rows, length, key=self._lengths.__getitem__)
            if self._signature.streaming:
                stop = min(length, done + CHUNK_STEPS)
                self._run_chunk(rows, done, stop)
                done, rows = stop, rows[shortest:] if stop == length else rows
            else:
                self._run_chunk(rows[:shortest], 0, length)
                rows = rows[shortest:]

    def _run_chunk(self, rows: list[int], start: int, stop: int) -> None:
        """Run steps `start .. stop` of the rows at once, or of each row alone where the runtime fails."""
        rows = [row for row in rows if self._results.errors[row] is None]
        if not rows:
            return
        try:
            self._run_together(rows, start, stop)
        except BackendError as e:
            if len(rows) == 1:
                self._results.errors[rows[0]] = e
                return
            for row in rows:
                self._run_chunk([row], start, stop)

    def _run_together(self, rows: list[int], start: int, stop: int) -> None:
        results, signature, index = self._results, self._signature, _index(rows)
        x = np.concatenate([self._inputs[row][start:stop] for row in rows])
        x = x.reshape(len(rows), stop - start, *x.shape[1:])
        want_output = any(self._want_output[row] for row in rows)
        given = self._backend.run(x, split(results.states[index], signature), want_output)
        states = results.states[index] = join(given.states)
        # With one y per sequence only the last run's y counts; earlier ones may be non-finite.
        earlier = self._finite[index] if signature.output_mode == "step" else True
        self._finite[index] = _finite(states) & _finite(given.y) & earlier
        for row, y in zip(rows, given.y, strict=True):
            self._y[row].append(y)
        if given.output is not None:
            for row, output in zip(rows, given.output, strict=True):
                self._output[row].append(output)

    def _finish(self) -> None:
        """Put together what the runs of each row gave."""
        results, last_only = self._results, self._signature.output_mode == "sequence"
        results.finite = self._finite.tolist()
        for row, error in enumerate(results.errors):
            if error is not None:
                continue
            results.y[row] = self._y[row][-1] if last_only else _joined(self._y[row])
            if self._want_output[row]:
                results.output[row] = output = _joined(self._output[row])
                results.finite[row] &= bool(np.isfinite(output).all())


def _index(rows: list[int]) -> slice | list[int]:
    """Index these rows: by a slice where they follow one another, which is the usual case and copies nothing."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if rows == list(range(first, last + 1)) else rows


def _joined(chunks: Sequence[Floats]) -> Floats:
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _finite(array: Floats) -> npt.NDArray[np.bool_]:
    """Whether every value of each of the B rows is a number."""
    return np.asarray(np.isfinite(array).reshape(len(array), -1).all(axis=1))
