"""Missing observations: the stream's own prediction takes the place of a measurement that was not made.

A missing value is NaN in a column that feeds back. Rows run up to their next missing step; the prediction made there fills it, and the run
goes on. So a stream with holes is the rollout of its model wherever it was not measured.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from handlers.arrays import Array, Floats, Vector
from handlers.errors import InvalidInput
from handlers.forecasting.memory import StreamMemory
from handlers.inference import batching
from handlers.inference.backends.base import Backend
from handlers.inference.batching import Results
from handlers.signature import Signature


@dataclass(slots=True)
class ObservedRow:
    """The inputs of one row, NaN where a value is missing, and what the stream expects at the first of them."""

    inputs: Array  # [T, F], or [T] token ids, which are never missing
    memory: StreamMemory


def check(inputs: Floats, memory: StreamMemory, fed_first: bool, max_imputed: int, signature: Signature) -> int:
    """Check that the missing values of `inputs` `[T, F]` can be imputed; return how many steps in a row are missing at the end.

    `fed_first` says that other inputs run before these, so that their first step has a prediction in any case.

    Raises:
        InvalidInput: the model cannot impute, nothing was predicted for the first step, or too many steps in a row are missing.
    """
    missing = missing_steps(inputs)
    if not missing.any():
        return 0
    if not signature.streaming or signature.min_steps > 1:
        raise InvalidInput(
            f"inputs: null, and {signature.label} does not run step by step, so it cannot predict what is missing: fill it in"
        )
    if missing[0] and memory.prediction is None and not fed_first:
        raise InvalidInput("inputs[0]: null in the first step of a stream, for which there is no prediction yet: begin with a measurement")
    longest = _longest(missing, memory.missing)
    if longest > max_imputed:
        raise InvalidInput(
            f"inputs: {longest} steps in a row without a measurement, at most {max_imputed} (max_imputed): send a measurement, "
            "or start another stream after the gap"
        )
    return _trailing(missing, memory.missing)


def missing_steps(inputs: Floats) -> Array:
    """Return which of the T steps of `[T, F]` lack a value, `[T]` bool."""
    return np.asarray(np.isnan(inputs).any(axis=1))


def _longest(missing: Array, before: int) -> int:
    """The longest run of missing steps, of which `before` steps lie before the first."""
    longest = run = before
    for is_missing in missing.tolist():
        run = run + 1 if is_missing else 0
        longest = max(longest, run)
    return longest if missing.any() else 0


def _trailing(missing: Array, before: int) -> int:
    """How many steps in a row are missing at the end, of which `before` steps lie before the first."""
    measured = np.flatnonzero(~missing)
    return len(missing) - 1 - int(measured[-1]) if len(measured) else before + len(missing)


def run(
    backend: Backend,
    signature: Signature,
    rows: Sequence[ObservedRow],
    states: Sequence[Vector],
    want_output: Sequence[bool],
    max_batch: int,
    deadline: float = math.inf,
) -> Results:
    """Run every row over all its steps as `batching.run` does, with its missing values imputed.

    The rows' inputs are replaced by filled ones. `states` are `[S]` each, `deadline` is monotonic seconds.
    """
    return _ImputedRun(backend, signature, rows, states, want_output).run(max_batch, deadline)


class _ImputedRun:
    """The rows of one call of `run`, cut at their missing steps, and what they have given so far."""

    def __init__(
        self, backend: Backend, signature: Signature, rows: Sequence[ObservedRow], states: Sequence[Vector], want_output: Sequence[bool]
    ) -> None:
        self._backend, self._signature, self._rows, self._want_output = backend, signature, rows, want_output
        self._pieces = [_pieces(row.inputs) for row in rows]
        self._columns = signature.fed_features
        self._y: list[list[Floats]] = [[] for _ in rows]  # of each piece so far
        self._output: list[list[Floats]] = [[] for _ in rows]
        self._results = Results.before(states)

    def run(self, max_batch: int, deadline: float) -> Results:
        for row, pieces in zip(self._rows, self._pieces, strict=True):
            if len(pieces) > 1 or _is_missing(row.inputs, 0):
                row.inputs = row.inputs.copy()  # the request keeps its own, for another attempt
        for piece in range(max(map(len, self._pieces))):
            chosen = [i for i, pieces in enumerate(self._pieces) if piece < len(pieces) and self._results.errors[i] is None]
            for i in chosen:
                self._fill(i, self._pieces[i][piece][0])
            if chosen:
                self._run_piece(chosen, piece, max_batch, deadline)
        for i, error in enumerate(self._results.errors):
            if error is None:
                self._finish(i)
        return self._results

    def _fill(self, i: int, step: int) -> None:
        """Put the last prediction where row i has no measurement at `step`."""
        row = self._rows[i]
        if not _is_missing(row.inputs, step):
            return
        expected = fed_back(self._y[i][-1], self._signature) if self._y[i] else row.memory.prediction
        assert expected is not None  # `check` refuses such a row
        values = row.inputs[step, self._columns]
        row.inputs[step, self._columns] = np.where(np.isnan(values), expected, values)

    def _run_piece(self, rows: list[int], piece: int, max_batch: int, deadline: float) -> None:
        results, bounds = self._results, [self._pieces[i][piece] for i in rows]
        inputs = [self._rows[i].inputs[start:stop] for i, (start, stop) in zip(rows, bounds, strict=True)]
        wanted = [self._want_output[i] for i in rows]
        given = batching.run(self._backend, self._signature, inputs, list(results.states[rows]), wanted, max_batch, deadline)
        results.states[rows] = given.states
        for k, i in enumerate(rows):
            results.errors[i] = given.errors[k]
            results.finite[i] = results.finite[i] and given.finite[k]
            y, output = given.y[k], given.output[k]
            if y is not None:
                self._y[i].append(y)
            if output is not None:
                self._output[i].append(output)

    def _finish(self, i: int) -> None:
        """Put the pieces of row i together."""
        self._results.y[i] = np.concatenate(self._y[i]) if self._signature.output_mode == "step" else self._y[i][-1]
        self._results.output[i] = np.concatenate(self._output[i]) if self._output[i] else None


def _is_missing(inputs: Array, step: int) -> bool:
    return inputs.ndim == 2 and bool(np.isnan(inputs[step]).any())


def _pieces(inputs: Array) -> list[tuple[int, int]]:
    """Cut `[T, F]` so that each missing step begins a piece."""
    cuts = np.flatnonzero(missing_steps(inputs)).tolist() if inputs.ndim == 2 else []
    bounds = sorted({0, *cuts, len(inputs)})
    return list(itertools.pairwise(bounds))


def fed_back(y: Floats, signature: Signature) -> Floats:
    """Return the values of a prediction, `[O]` or the last of `[T, O]`, that feed back."""
    last: Floats = (y if y.ndim == 1 else y[-1])[signature.fed_outputs]
    return last
