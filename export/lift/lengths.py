"""Find the arguments of forward that say how many steps of each row count."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from export.errors import LiftError
from export.lift.arguments import Axes
from export.lift.probe import run, tensors


def find_lengths(
    model: nn.Module, values: Sequence[Any], spec: TreeSpec, first: int, axes: Axes, packed: Sequence[Sequence[int]]
) -> frozenset[int]:
    """Return the positions of lengths among forward's flattened arguments, of which x is at `first`.

    Lengths are integers `[B]`: T in every row, or equal to `packed`, by which the model packed sequences, or such that y does not depend on
    what x holds beyond them.
    """
    x: Tensor = values[first]
    batch, steps = x.shape[axes.batch], x.shape[axes.time]
    found = set()
    for position, value in enumerate(values):
        if position != first and isinstance(value, Tensor) and value.shape == (batch,) and not value.is_floating_point():
            is_sure = bool((value == steps).all()) or sorted(value.tolist()) in map(sorted, packed)
            if is_sure or _count_steps(model, values, spec, first, axes, position):
                found.add(position)
    return frozenset(found)


def _count_steps(model: nn.Module, values: Sequence[Any], spec: TreeSpec, first: int, axes: Axes, position: int) -> bool:
    """Return whether y ignores the steps of x beyond the integers at `position`, and does not where those are T in every row.

    Without the second half, the ids of a model that looks at the first steps alone would be lengths.
    """
    lengths, x = values[position], axes.from_model(values[first])
    steps = torch.arange(x.shape[1])
    beyond = (steps >= lengths[:, None]).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
    changed = axes.to_model(torch.where(beyond, x.roll(1, 1), x))

    def depends(lengths: Tensor) -> bool:
        results = []
        for x in (values[first], changed):
            given = [x if i == first else lengths if i == position else value for i, value in enumerate(values)]
            results.append(tensors(run(model, tree_unflatten(given, spec), "other lengths"))[0])
        return not torch.equal(*results)

    try:
        return not depends(lengths) and depends(torch.full_like(lengths, len(steps)))
    except LiftError:  # an id, of which T is beyond the table
        return False
