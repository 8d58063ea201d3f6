"""Measure up to which magnitude of its inputs a model's artefacts agree with the eager model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from export.difference import difference
from export.lift.lifted import Lift
from export.report import TOLERANCE, UNLIMITED
from export.verify.runners import Runner, eager_runner

MAGNITUDES = (UNLIMITED, 1e36, 1e30, 1e24, 1e18, 1e12, 1e9, 1e6, 1e3)  # tried as inputs, from the largest


def input_limit(lifted: Lift, runner: Runner, steps: int, generator: torch.Generator, signed: bool = True) -> float:
    """Return the largest tried magnitude at which the artefact and the eager model are finite and equal; 0 for none.

    Beyond it the runtimes part: where a sum leaves the numbers, ONNX Runtime's LSTM can make a finite value of a NaN. No magnitude below
    the example's own largest number is tried. Ids keep their values. Numbers get both signs, or those of the example unless `signed`.
    """
    window, start = lifted.window(), lifted.start(4)
    if not window.is_floating_point():
        return UNLIMITED
    own = float(window.abs().max())
    for magnitude in sorted({*MAGNITUDES, own}, reverse=True):
        if magnitude >= own and _agrees(lifted, runner, lifted.sampler.with_magnitude(magnitude, 4, steps, generator, signed), start):
            return magnitude
    return 0.0


def _agrees(lifted: Lift, runner: Runner, x: Tensor, states: Sequence[Tensor]) -> bool:
    try:
        expected = eager_runner(lifted)(x, states)
    except Exception:  # noqa: BLE001 - the user's code may raise anything, mostly for ids that are out of range
        return False
    finite = all(bool(torch.isfinite(t).all()) for t in expected)
    return finite and all(difference(a, b) <= TOLERANCE for a, b in zip(runner(x, states), expected, strict=True))
