"""Measure up to which magnitude of its inputs a model's artefacts agree with the eager model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from export.difference import difference
from export.lift import probe
from export.lift.lifted import Lift
from export.report import TOLERANCE, UNLIMITED
from export.verify.runners import Runner, eager_runner

MAGNITUDES = (UNLIMITED, 1e36, 1e30, 1e24, 1e18, 1e12, 1e9, 1e6, 1e3)  # tried as inputs, from the largest


def input_limit(lifted: Lift, runner: Runner, steps: int, generator: torch.Generator) -> float:
    """Return the largest tried magnitude at which the artefact and the eager model are finite and equal.

    Beyond it the runtimes part: where a sum leaves the numbers, ONNX Runtime's LSTM can make a finite value of a NaN. Columns that may
    hold ids keep their values. Returns 0 when no magnitude that is at least the example's largest number works.
    """
    window = lifted.window()
    if not window.is_floating_point():
        return UNLIMITED
    own = float(window.abs().max())
    ids = probe.integer_columns(window)
    kept = ids & ~ids.all()  # [F]
    x, start = lifted.inputs(4, steps, generator), lifted.start(4)
    signs = torch.where(torch.rand(x.shape, generator=generator) < 0.5, -1.0, 1.0)
    for magnitude in sorted({*MAGNITUDES, own}, reverse=True):
        if magnitude >= own and _agrees(lifted, runner, x.where(kept, signs * magnitude), start):
            return magnitude
    return 0.0


def _agrees(lifted: Lift, runner: Runner, x: Tensor, states: Sequence[Tensor]) -> bool:
    try:
        expected = eager_runner(lifted)(x, states)
    except Exception:  # noqa: BLE001 - the user's code may raise anything, mostly for ids that are out of range
        return False
    finite = all(bool(torch.isfinite(t).all()) for t in expected)
    return finite and all(difference(a, b) <= TOLERANCE for a, b in zip(runner(x, states), expected, strict=True))
