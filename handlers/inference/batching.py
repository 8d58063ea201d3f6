"""Runs sequences of any length in one batch: the steps that all rows have first, then on with the rows that have more.

Nothing is padded, so nothing is masked: a row's state after its last step is its state. A model that cannot stream must see each sequence
whole; its rows are grouped by length instead.
"""

import math
import time
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
    return np.concatenate([tensor.swapaxes(0, 1).reshape(tensor.shape[1], -1) for tensor in tensors], axis=1)


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
        size = len(inputs)
        self._backend, self._signature, self._inputs, self._want_output = backend, signature, inputs, want_output
        self._chunks: list[list[tuple[Floats, Floats | None]]] = [[] for _ in range(size)]  # y and output of each run so far
        self._results = Results([None] * size, [None] * size, states.copy(), [True] * size, [None] * size)

    def run(self, max_batch: int, deadline: float) -> Results:
        order = sorted(range(len(self._inputs)), key=lambda i: len(self._inputs[i]))
        for start in range(0, len(order), max_batch):
            self._run_ragged(order[start : start + max_batch], deadline)
        for row, error in enumerate(self._results.errors):
            if error is None:
                self._finish(row)
        return self._results

    def _run_ragged(self, rows: list[int], deadline: float) -> None:
        """Run rows that ascend in length."""
        done = 0
        while rows:
            if time.monotonic() > deadline:
                for row in rows:
                    self._results.errors[row] = self._results.errors[row] or DeadlineExceeded("the batch took too long")
                return
            length = len(self._inputs[rows[0]])
            shortest = next((n for n, row in enumerate(rows) if len(self._inputs[row]) > length), len(rows))
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
        results, signature = self._results, self._signature
        x = np.concatenate([self._inputs[row][start:stop] for row in rows])
        x = x.reshape(len(rows), stop - start, *x.shape[1:])
        whole = len(rows) == len(results.states) and rows == list(range(len(rows)))  # the usual case: all rows, in their order
        want_output = any(self._want_output[row] for row in rows)
        given = self._backend.run(x, split(results.states if whole else results.states[rows], signature), want_output)
        states = join(given.states)
        if whole:
            results.states = states
        else:
            results.states[rows] = states
        finite = _finite(states) & _finite(given.y)
        for i, row in enumerate(rows):
            # With one y per sequence only the last chunk's y counts; earlier ones may be non-finite.
            results.finite[row] = bool(finite[i]) and (results.finite[row] or signature.per == "sequence")
            self._chunks[row].append((given.y[i], given.output[i] if given.output is not None and self._want_output[row] else None))

    def _finish(self, row: int) -> None:
        """Put the row's chunks together."""
        results, chunks = self._results, self._chunks[row]
        per_step = self._signature.per == "step" and len(chunks) > 1
        results.y[row] = np.concatenate([y for y, _ in chunks]) if per_step else chunks[-1][0]
        if self._want_output[row]:
            output = np.concatenate([output for _, output in chunks if output is not None])
            results.output[row] = output
            results.finite[row] = results.finite[row] and bool(np.isfinite(output).all())


def _finite(array: Floats) -> npt.NDArray[np.bool_]:
    """Whether every value of each of the B rows is a number."""
    return np.asarray(np.isfinite(array).reshape(len(array), -1).all(axis=1))
