"""Measure a model's memory: after how many steps two streams that began from different states agree within the tolerance."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from export.difference import difference
from export.lift.lifted import Lift
from export.report import TOLERANCE
from export.verify.runners import Runner

LIMIT = 512  # steps that streams run; of a longer memory is said that it is longer
OFFSETS, DRAWN, RANDOM = 3, 2, 2  # windows that begin within the example, windows drawn like it, and random states
REACHED = 64  # steps of another window after which a state is one that the model itself comes to
KEPT = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # steps after which the agreement is written down, for streams of which fewer inputs are known


def measure(lifted: Lift, runner: Runner) -> dict[str, Any]:
    """Return the `memory` of the signature of a model that streams.

    Streams run step by step through `runner`, over windows like the example, from the start of a stream and from zeros, random states and
    states of other windows. `steps` is after how many all outputs and states agree, then and at every later step up to `limit`, and None
    where they do not. `agreement` has pairs of steps and the largest scaled difference from there on, rounded up to two digits; None for
    a difference that is no number.
    """
    generator = torch.Generator().manual_seed(0)
    windows = _windows(lifted, generator)
    apart = _differences(runner, windows, _states(lifted, runner, windows, generator))
    later = list(itertools.accumulate(reversed(apart), max))[::-1]  # from each step on
    steps = next((n for n, value in enumerate(later, 1) if value <= TOLERANCE), LIMIT)
    known = [n for n in KEPT if n < steps] + [steps] * (steps < LIMIT)
    return {
        "steps": steps if steps < LIMIT else None,
        "limit": LIMIT,
        "tolerance": TOLERANCE,
        "agreement": [[n, _rounded(later[n - 1])] for n in known],
    }


def _windows(lifted: Lift, generator: torch.Generator) -> Tensor:
    """Return inputs `[W, LIMIT, …]`: the example over and over, from several places in it, and steps drawn like the example's."""
    example = lifted.window()[0]
    starts = [i * len(example) // OFFSETS for i in range(OFFSETS)]
    repeated = [example[(torch.arange(LIMIT) + start) % len(example)] for start in starts]
    return torch.cat([torch.stack(repeated), lifted.inputs(DRAWN, LIMIT, generator)])


def _states(lifted: Lift, runner: Runner, windows: Tensor, generator: torch.Generator) -> list[list[Tensor]]:
    """Return states to begin with, for a row of each window: that of a new stream, then others."""
    count = len(windows)
    _, _, *reached = runner(windows[:, :REACHED].contiguous(), lifted.start(count))
    neighbours = [state.roll(1, dims=1) for state in reached]
    return [lifted.start(count), lifted.zeros(count), neighbours, *[lifted.random_states(count, generator) for _ in range(RANDOM)]]


def _differences(runner: Runner, windows: Tensor, begun: Sequence[Sequence[Tensor]]) -> list[float]:
    """Return for each step how far streams are apart from those that began with the first of the states; infinite for no number."""
    count, kinds = len(windows), len(begun)
    states = [torch.cat(parts, 1) for parts in zip(*begun, strict=True)]
    apart = []
    for step in range(LIMIT):
        x = windows[:, step : step + 1].repeat(kinds, *[1] * (windows.dim() - 1))
        y, _, *states = runner(x, states)
        found = [y.flatten(0, -2), *[state.transpose(0, 1) for state in states]]
        apart.append(max(_apart(tensor, count) for tensor in found))
    return apart


def _apart(tensor: Tensor, count: int) -> float:
    """Return the scaled difference between the first `count` rows and all others; infinite where one of them holds what is no number."""
    if not tensor.isfinite().all():
        return math.inf
    return difference(tensor[count:], tensor[:count].repeat(len(tensor) // count - 1, *[1] * (tensor.dim() - 1)))


def _rounded(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    digits = 1 - math.floor(math.log10(value)) if value > 0 else 0
    return float(math.ceil(value * 10**digits) / 10**digits)
