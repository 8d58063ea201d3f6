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

from handlers.arrays import Array, Floats, Vector
from handlers.inference.backends.base import Backend, BackendError
from handlers.signature import Signature

CHUNK_STEPS = 512  # steps of one model run, which bounds the time between two looks at the clock


class DeadlineExceeded(BackendError):
    """The deadline passed before a row's turn. Nothing is wrong with the row."""


@dataclass(slots=True)
class AlikeRun:
    """What B rows of one length give."""

    y: Floats  # [B, O], or [B, T, O] per step
    states: Floats  # [B, S], after the last step
    finite: npt.NDArray[np.bool_] | None = None  # [B], whether every value of the row is a number; None where that is so of all rows

    def of(self, rows: npt.NDArray[np.bool_]) -> "AlikeRun":
        """Return some of the rows, which are finite."""
        return AlikeRun(self.y[rows], self.states[rows])


@dataclass(slots=True)
class Results:
    """What B sequences give, row by row. A row with an error has no other result."""

    y: list[Floats | None]  # [O], or [T, O] per step
    output: list[Floats | None]  # [T, D*P] where it was wanted
    states: Floats  # [B, S], after the last step
    finite: list[bool]  # whether every value of the row is a number
    errors: list[BackendError | None]

    @classmethod
    def before(cls, states: Sequence[Vector]) -> "Results":
        """Return the results of rows that have not run: nothing but a copy of their states, `[S]` each."""
        count = len(states)
        return cls([None] * count, [None] * count, np.concatenate(states).reshape(count, -1), [True] * count, [None] * count)

    @classmethod
    def of(cls, rows: "AlikeRun") -> "Results":
        """Return the results of rows of one length."""
        count = len(rows.y)
        finite = [True] * count if rows.finite is None else rows.finite.tolist()
        return cls(list(rows.y), [None] * count, rows.states, finite, [None] * count)


def split(states: Floats, signature: Signature) -> tuple[Floats, ...]:
    """Cut `[B, S]` into one contiguous `[L*D, B, size]` for each state tensor."""
    arrays, start = [], 0
    for entry in signature.state:
        stop = start + entry.length
        part = states[:, start:stop].reshape(len(states), entry.rows, entry.size)
        arrays.append(np.ascontiguousarray(part.swapaxes(0, 1)))
        start = stop
    return tuple(arrays)


def join(tensors: Sequence[Floats], states: Floats) -> None:
    """Write into `states` the `[B, S]` that `split` cuts into these tensors."""
    start = 0
    for tensor in tensors:
        stop = start + len(tensor) * tensor.shape[2]
        states[:, start:stop].reshape(tensor.shape[1], len(tensor), -1)[...] = tensor.swapaxes(0, 1)  # a view: one copy, and no other
        start = stop


def run(
    backend: Backend,
    signature: Signature,
    inputs: Sequence[Array],
    states: Sequence[Vector],
    want_output: Sequence[bool],
    max_batch: int,
    deadline: float = math.inf,
) -> Results:
    """Run every row over all its steps, short rows first.

    `inputs` are `[T, F]` or `[T]` each, `states` are `[S]` each, `deadline` is monotonic seconds. Where the runtime fails on a batch, each
    of its rows runs alone, so that only the rows to blame have an error.
    """
    length = len(inputs[0])
    if length <= CHUNK_STEPS and not any(want_output) and all(len(each) == length for each in inputs):
        try:
            return Results.of(run_alike(backend, signature, np.array(inputs), np.array(states), max_batch, deadline))
        except BackendError:
            pass  # each row is tried by itself
    return _BatchRun(backend, signature, inputs, states, want_output).run(max_batch, deadline)


def run_alike(backend: Backend, signature: Signature, x: Array, states: Floats, max_batch: int, deadline: float = math.inf) -> AlikeRun:
    """Run rows of one length, `max_batch` at once. `x` is `[B, T, …]`, `states` are `[B, S]`, `deadline` is monotonic seconds.

    Raises:
        BackendError: the runtime failed on a batch, or the deadline passed before the last one.
    """
    y, after = [], np.empty(states.shape, np.float32)
    for start in range(0, len(x), max_batch):
        if time.monotonic() > deadline:
            raise DeadlineExceeded("the batch took too long")
        rows = slice(start, start + max_batch)
        given = backend.run(x[rows], split(states[rows], signature), False)
        join(given.states, after[rows])
        y.append(given.y)
    whole = _joined(y)
    return AlikeRun(whole, after, _finite(after, whole))


class _BatchRun:
    """The rows of one call of `run`, and what they have given so far."""

    def __init__(
        self, backend: Backend, signature: Signature, inputs: Sequence[Array], states: Sequence[Vector], want_output: Sequence[bool]
    ) -> None:
        self._backend, self._signature, self._inputs, self._want_output = backend, signature, inputs, want_output
        self._lengths = list(map(len, inputs))
        self._last_only = signature.output_mode == "sequence"  # with one y per sequence only the last run's y counts
        self._y: list[list[Floats]] = [[] for _ in inputs]  # of each run so far
        self._output: dict[int, list[Floats]] = {row: [] for row, wanted in enumerate(want_output) if wanted}
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
        index, want_output = _index(rows), not self._output.keys().isdisjoint(rows)
        states = self._results.states[index]  # a view where the rows follow one another, and a copy otherwise
        given = self._backend.run(self._steps(rows, start, stop), split(states, self._signature), want_output)
        join(given.states, states)
        if not isinstance(index, slice):
            self._results.states[index] = states
        finite = _finite(states, given.y)
        if self._last_only:
            self._finite[index] = True if finite is None else finite
        elif finite is not None:
            self._finite[index] &= finite
        for row, y in zip(rows, given.y, strict=True):
            self._y[row].append(y)
        if given.output is not None:
            for row, output in zip(rows, given.output, strict=True):
                if row in self._output:
                    self._output[row].append(output)

    def _steps(self, rows: list[int], start: int, stop: int) -> Array:
        """Return steps `start .. stop` of the rows, `[rows, steps, …]`."""
        whole = start == 0 and stop == self._lengths[rows[-1]]  # the longest row is the last
        x = np.concatenate([self._inputs[row] if whole else self._inputs[row][start:stop] for row in rows])
        return x.reshape(len(rows), stop - start, *x.shape[1:])

    def _finish(self) -> None:
        """Put together what the runs of each row gave."""
        results = self._results
        results.finite = self._finite.tolist()
        results.y = [
            None if error else chunks[-1] if self._last_only else _joined(chunks)
            for chunks, error in zip(self._y, results.errors, strict=True)
        ]
        for row, chunks in self._output.items():
            if results.errors[row] is None:
                results.output[row] = output = _joined(chunks)
                results.finite[row] &= bool(np.isfinite(output).all())


def _index(rows: list[int]) -> slice | list[int]:
    """Index these rows: by a slice where they follow one another, which is the usual case and copies nothing."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if rows == list(range(first, last + 1)) else rows


def _joined(chunks: Sequence[Floats]) -> Floats:
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _are_finite(values: Floats) -> bool:
    return b"\0" not in np.isfinite(values).tobytes()  # faster than `all`


def _finite(states: Floats, y: Floats) -> npt.NDArray[np.bool_] | None:
    """Whether every value of each of the B rows is a number; None where that is so of all rows, which is the usual case."""
    if _are_finite(states) and _are_finite(y):
        return None
    return np.asarray(np.isfinite(states).all(axis=1) & np.isfinite(y).reshape(len(y), -1).all(axis=1))
