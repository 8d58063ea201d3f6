"""Measure whether a model streams: whether the pieces of a cut sequence give what the whole sequence gives."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from export.difference import difference
from export.lift.lifted import Lift
from export.report import TOLERANCE
from export.verify.runners import eager_runner, random_cuts, run_in_pieces

DOUBLE_TOLERANCE = 1e-9  # scaled, in float64
CUTS = 6  # random ways to cut one sequence
SHORT, LONG = (8, 60), 5_000  # steps of the sequences that are cut
CHUNK = 512  # the service runs at most so many steps of a stream at once


def streaming_reason(lifted: Lift, generator: torch.Generator) -> str:
    """Return an empty string when every tried cut of a sequence gives what the whole gives; else what was measured.

    Measured in float64 where the model runs in it: rounding is then 1e-16, so a small difference is not mistaken for rounding.
    """
    least, most = lifted.steps
    if most is not None or least > 1:
        span = f"exactly {least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
        return f"it takes {span} steps at once"
    with in_double(lifted) as doubled, torch.no_grad():
        check = _Check(lifted, generator, doubled)
        for steps in SHORT:
            for x in (lifted.inputs(2, steps, generator), lifted.sampler.widened(6, steps, generator)):
                reason = check.cut_reason(x, [random_cuts(steps, generator) for _ in range(CUTS)])
                if reason:
                    return reason
        constant = check.constant_columns()
        if constant:
            return f"y column {', '.join(map(str, constant))} was the same for every input tried, so its cuts could not be measured"
        if lifted.looping:
            return ""  # the loop of the graph runs step by step, whatever the length; it is compared with the unmodified model later
        cuts = [list(range(CHUNK, LONG, CHUNK)), [*range(CHUNK - 1, LONG, CHUNK), LONG - 1], random_cuts(LONG, generator)]
        return check.cut_reason(lifted.inputs(2, LONG, generator), cuts)


class _Check:
    """Compares pieces with wholes, and remembers every y."""

    def __init__(self, lifted: Lift, generator: torch.Generator, doubled: bool) -> None:
        self._lifted, self._generator, self._doubled = lifted, generator, doubled
        self._runner, self._ys = eager_runner(lifted), list[Tensor]()

    def cut_reason(self, x: Tensor, ways: Sequence[Sequence[int]]) -> str:
        """Return the first difference between a whole and its pieces, in rows whose whole is finite."""
        states = self._lifted.random_states(len(x), self._generator)
        if self._doubled:
            x, states = x.double() if x.is_floating_point() else x, [state.double() for state in states]
        whole = self._runner(x, states)
        self._ys.append(whole[0].flatten(0, -2))
        rows = finite_rows(whole)
        for cuts in ways:
            pieces = run_in_pieces(self._runner, x, states, cuts, self._lifted.output_mode == "step")
            for name, a, b in zip(self._lifted.output_names, pieces, whole, strict=True):
                value = difference(_rows(a, name, rows), _rows(b, name, rows), 1e-30 if self._doubled else 1.0)
                if not value <= (DOUBLE_TOLERANCE if self._doubled else TOLERANCE):
                    shown = f"{list(cuts)}" if len(cuts) < 10 else f"{len(cuts)} places of {x.shape[1]} steps"
                    return f"cut at {shown}, {name} differs from the whole sequence's by {value:.1e}"
        return ""

    def constant_columns(self) -> list[int]:
        """Return the columns of y that never changed."""
        ys = torch.cat(self._ys)
        ys = ys[torch.isfinite(ys).all(1)]
        return [] if not len(ys) else (ys == ys[0]).all(0).nonzero().flatten().tolist()


def finite_rows(results: Sequence[Tensor]) -> Tensor:
    """Return a mask over the B rows in which y, output and states are finite."""
    y, output, *states = results
    rows = [t.flatten(1).isfinite().all(1) for t in (y, output, *(state.transpose(0, 1) for state in states))]
    return torch.stack(rows).all(0)


def _rows(value: Tensor, name: str, rows: Tensor) -> Tensor:
    kept = value[rows] if name in ("y", "output") else value[:, rows]
    return kept if kept.numel() else torch.zeros(1)


@contextlib.contextmanager
def in_double(lifted: Lift) -> Iterator[bool]:
    """Convert the lifted module to float64 for a while; yields whether it runs so: a model may insist on float32 somewhere."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        lifted.module.double()
        doubled = _runs_in_double(lifted)
        if not doubled:
            torch.set_default_dtype(before)
            lifted.module.float()
        yield doubled
    finally:
        torch.set_default_dtype(before)
        lifted.module.float()


def _runs_in_double(lifted: Lift) -> bool:
    x = lifted.window()
    try:
        with torch.no_grad():
            lifted.module(x.double() if x.is_floating_point() else x, *(state.double() for state in lifted.start(len(x))))
    except Exception:  # noqa: BLE001 - the user's code may raise anything; the check then runs in float32
        return False
    return True
