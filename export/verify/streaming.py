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


def streaming_reason(lifted: Lift, generator: torch.Generator) -> str:
    """Return an empty string when every tried cut of a sequence gives what the whole gives; else what was measured.

    Measured in float64 where the model runs in it: rounding is then 1e-16, so a small difference is not mistaken for rounding.
    """
    least, most = lifted.steps
    if most is not None or least > 1:
        span = f"exactly {least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
        return f"it takes {span} steps at once"
    with in_double(lifted) as doubled:
        for steps in (8, 60):
            x, states = lifted.inputs(2, steps, generator), lifted.random_states(2, generator)
            if doubled:
                x, states = x.double() if x.is_floating_point() else x, [state.double() for state in states]
            reason = _cut_reason(lifted, x, states, generator, *((DOUBLE_TOLERANCE, 1e-30) if doubled else (TOLERANCE, 1.0)))
            if reason:
                return reason
    return ""


def _cut_reason(lifted: Lift, x: Tensor, states: Sequence[Tensor], generator: torch.Generator, tolerance: float, floor: float) -> str:
    runner = eager_runner(lifted)
    whole = runner(x, states)
    for _ in range(CUTS):
        cuts = random_cuts(x.shape[1], generator)
        pieces = run_in_pieces(runner, x, states, cuts, lifted.output_mode == "step")
        for name, a, b in zip(lifted.output_names, pieces, whole, strict=True):
            value = difference(a, b, floor)
            if not value <= tolerance:
                return f"cut at {cuts}, {name} differs from the whole sequence's by {value:.1e}"
    return ""


@contextlib.contextmanager
def in_double(lifted: Lift) -> Iterator[bool]:
    """Convert the lifted module to float64 for a while; yields whether it runs so: a model may insist on float32 somewhere."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        lifted.module.double()
        yield _runs_in_double(lifted)
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
