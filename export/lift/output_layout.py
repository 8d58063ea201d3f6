"""Find where batch and time are in what a model takes and returns, by running it with other sizes."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.errors import LiftError
from export.lift import probe
from export.lift.arguments import Arguments
from export.lift.convention import call_forward
from export.lift.probe import Observation

MANY = 5_000  # a model that takes so many steps takes any number


def step_range(model: nn.Module, arguments: Arguments, layout: "Layout | None" = None) -> tuple[int, int | None]:
    """Return the least and the most T that the model takes, and at which y has the layout's width; None for no upper bound.

    Without a layout, no upper bound is looked for.
    """
    steps = arguments.steps

    def holds(n: int) -> bool:
        given = arguments.resized(2, n)
        try:
            with torch.no_grad():
                outputs = probe.tensors(call_forward(probe.fresh_copy(model), given))
            y = layout.arrange(outputs, 2, n) if layout else None
        except Exception:
            return False
        return layout is None or y is None or y.shape == ((2, layout.width) if layout.kind == "sequence" else (2, n, layout.width))

    if not holds(steps + 3):
        return steps, steps
    least = 1 if holds(1) else bisect.bisect_left(range(1, steps), True, key=holds) + 1
    if layout is None or holds(MANY):
        return least, None
    return least, steps + 3 + bisect.bisect_left(range(steps + 4, MANY), True, key=lambda n: not holds(n))


@dataclass(frozen=True, eq=False)
class Seen:
    """An observation and its batch and time sizes."""

    observation: Observation
    batch: int
    steps: int


def two_sizes(model: nn.Module, arguments: Arguments, steps: tuple[int, int | None]) -> tuple[Seen, Seen]:
    """Observe the model at two sizes, all four numbers distinct if its range of T allows."""
    fixed = steps[0] == steps[1]
    length = arguments.steps if fixed else max(arguments.steps, steps[0], 5)
    other = length if fixed else length + 3
    small, large = arguments.resized(2, length), arguments.resized(3, other)
    return Seen(probe.observe(model, small), 2, length), Seen(probe.observe(model, large), 3, other)


@dataclass(frozen=True)
class Part:
    """One output of the model that is part of y: its index, and its axes."""

    index: int
    batch_axis: int
    time_axis: int | None  # None: one value a sequence
    dims: int
    flat: bool = False  # batch and time are one axis, in this order when batch_axis is 0


@dataclass(frozen=True)
class Layout:
    """How y is assembled from the outputs of the model."""

    kind: str  # "sequence" | "step"
    parts: tuple[Part, ...]
    width: int  # O

    def arrange(self, outputs: Sequence[Tensor], batch: int, steps: int) -> Tensor:
        """Assemble y: `[B, O]`, or `[B, T, O]` per step."""
        return torch.cat([_arranged(outputs[part.index], part, batch, steps) for part in self.parts], -1)


def _arranged(value: Tensor, part: Part, batch: int, steps: int) -> Tensor:
    value = value if value.is_floating_point() else value.float()
    if part.flat:
        return value.reshape(batch, steps, -1) if part.batch_axis == 0 else value.reshape(steps, batch, -1).transpose(0, 1)
    axes = [(part.batch_axis, batch)] if part.time_axis is None else sorted([(part.batch_axis, batch), (part.time_axis, steps)])
    for axis, size in axes:  # a model that squeezes its result drops an axis of size 1
        if value.dim() < part.dims and size == 1:
            value = value.unsqueeze(axis)
    if part.time_axis is None:
        return (value.movedim(part.batch_axis, 0) if part.batch_axis else value).reshape(batch, -1)
    if (part.batch_axis, part.time_axis) != (0, 1):
        value = value.movedim((part.batch_axis, part.time_axis), (0, 1))
    return value.reshape(batch, steps, -1)


def find_layout(small: Seen, large: Seen, changed: Observation, arguments: Arguments) -> Layout:
    """Find the layout of y. `changed` is `small` with other numbers in row 1. Raises LiftError when no output has a batch axis."""
    few, many = len(small.observation.outputs), len(large.observation.outputs)
    if few != many:
        raise LiftError(
            f"the model returns {few} tensors for T={small.steps} and {many} for T={large.steps}: return one tensor [B, T, …], by "
            "torch.stack(outputs, 1), or the last"
        )
    parts = [p for p in (_part(i, small, large, changed) for i in range(len(small.observation.outputs))) if p is not None]
    states = {leaf.state.returned for leaf in arguments.states if leaf.state}
    own = [p for p in parts if p.index not in states and not _is_state(small.observation.outputs[p.index], small.observation)] or parts[:1]
    if not own:
        hint = "; its recurrent modules take x as [T, B, …]: is batch_first=True missing?" if arguments.axes.batch else ""
        raise LiftError(f"{_shapes(small, large)}: return one value a row, [B, …], or one a row and step, [B, T, …]{hint}")
    kept = tuple(p for p in own if (p.time_axis is None) == (own[0].time_axis is None))
    seen = small.observation.outputs
    cells = small.batch * (1 if own[0].time_axis is None else small.steps)
    width = sum(seen[p.index].numel() // cells for p in kept)
    return Layout("sequence" if own[0].time_axis is None else "step", kept, width)


def _shapes(small: Seen, large: Seen) -> str:
    """Say what the model returns, for two sizes of its input: none of it has a row for each row of x and the same sizes for any T."""
    pairs = list(zip(small.observation.outputs, large.observation.outputs, strict=False))
    if not pairs:
        return "no output of the model is a tensor"
    told = "; ".join(
        f"{list(a.shape)} for B={small.batch} T={small.steps} and {list(b.shape)} for B={large.batch} T={large.steps}" for a, b in pairs[:3]
    )
    return f"no output of the model is one value a sequence or one a step: it returns {told}"


def _part(index: int, small: Seen, large: Seen, changed: Observation) -> Part | None:
    a, b = small.observation.outputs[index], large.observation.outputs[index]
    if a.dim() != b.dim():
        return None
    pairs = list(zip(a.shape, b.shape, strict=True))
    batch = next((i for i, pair in enumerate(pairs) if pair == (small.batch, large.batch)), None)
    if batch is not None:
        time = next((i for i, pair in enumerate(pairs) if pair == (small.steps, large.steps) and i != batch), None)
        if any(pair[0] != pair[1] for i, pair in enumerate(pairs) if i not in (batch, time)):
            return None  # another axis grows with T: [B, T, T] of an attention, or T - 1 differences
        fixed = small.steps == large.steps  # then a time axis cannot be told from any other: it is part of y
        return Part(index, batch, None if fixed else time, a.dim())
    if pairs and pairs[0] == (small.batch * small.steps, large.batch * large.steps):
        return Part(index, _flat_order(a, changed.outputs[index], small.batch), 0, a.dim(), flat=True)
    return None


def _flat_order(value: Tensor, changed: Tensor, batch: int) -> int:
    """Return 0 for `[B*T, …]` and 1 for `[T*B, …]`: a change in row 1 leaves row 0 as it was in the right one only."""
    same = (value == changed).reshape(batch, -1)
    return 0 if bool(same[0].all()) else 1


def _is_state(value: Tensor, observation: Observation) -> bool:
    """Return whether an output is what a recurrent module returned, which the lifted graph returns anyway."""
    known = [t for call in observation.calls for t in (call.output, *call.final)]
    return any(value.shape == t.shape and torch.equal(value, t) for t in known)
