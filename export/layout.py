"""Where batch and time are in what a model takes and returns, found by changing their sizes and looking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export import probe
from export.errors import LiftError
from export.probe import Inputs, Observation

TRIED = (1, 2, 3, 5, 8, 13)  # lengths tried to find the least that a model takes


def sized(inputs: Inputs, axis: int, batch: int, steps: int) -> Inputs:
    """The example with `batch` rows and `steps` steps; lengths become `steps`, static inputs and states follow the batch."""
    x: Tensor = inputs[0]
    old_batch, old_steps = x.shape[axis], x.shape[1 - axis]
    resized = probe.resize(probe.resize(x, axis, batch), 1 - axis, steps)
    return resized, *(_follow(value, old_batch, old_steps, batch, steps) for value in inputs[1:])


def _follow(value: Any, old_batch: int, old_steps: int, batch: int, steps: int) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_follow(part, old_batch, old_steps, batch, steps) for part in value)
    if value.shape == (old_batch,) and not value.is_floating_point() and int(value.max()) <= old_steps:
        return torch.full((batch,), steps, dtype=value.dtype)
    where = 1 if value.dim() == 3 and value.shape[1] == old_batch else 0
    return probe.resize(value, where, batch)


def step_range(model: nn.Module, inputs: Inputs, axis: int) -> tuple[int, int | None]:
    """The least and the most T: a model that flattens its window takes one length only."""
    steps = inputs[0].shape[1 - axis]
    if not _takes(model, sized(inputs, axis, 2, steps + 3)):
        return steps, steps
    return next((n for n in TRIED if n < steps and _takes(model, sized(inputs, axis, 2, n))), steps), None


def _takes(model: nn.Module, inputs: Inputs) -> bool:
    try:
        probe.observe(model, inputs)
    except LiftError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Seen:
    """An observation and the sizes it was made with."""

    observation: Observation
    batch: int
    steps: int


def two_sizes(model: nn.Module, inputs: Inputs, axis: int, steps: tuple[int, int | None]) -> tuple[Seen, Seen]:
    """The model at two sizes, all four numbers distinct where it allows."""
    length = max(inputs[0].shape[1 - axis], steps[0], 5)
    if steps[1] is not None:
        length = steps[1]
    other = length if steps[1] is not None else length + 3
    small, large = sized(inputs, axis, 2, length), sized(inputs, axis, 3, other)
    return Seen(probe.observe(model, small), 2, length), Seen(probe.observe(model, large), 3, other)


@dataclass(frozen=True)
class Part:
    """One of the model's outputs: where it is among them, and where its axes are."""

    index: int
    batch_axis: int
    time_axis: int | None  # None: one value a sequence
    flat: bool = False  # batch and time are one axis, in this order when batch_axis is 0


@dataclass(frozen=True)
class Layout:
    """How y is put together from what the model returns."""

    kind: str  # "sequence" | "step"
    parts: tuple[Part, ...]
    width: int  # O

    def arrange(self, outputs: Sequence[Tensor], batch: int, steps: int) -> Tensor:
        """y: `[B, O]`, or `[B, T, O]` per step."""
        return torch.cat([_arranged(outputs[part.index], part, batch, steps) for part in self.parts], -1)


def _arranged(value: Tensor, part: Part, batch: int, steps: int) -> Tensor:
    value = value if value.is_floating_point() else value.float()
    if part.time_axis is None:
        return (value.movedim(part.batch_axis, 0) if value.dim() > part.batch_axis > 0 else value).reshape(batch, -1)
    if part.flat:
        return value.reshape(batch, steps, -1) if part.batch_axis == 0 else value.reshape(steps, batch, -1).transpose(0, 1)
    if value.dim() > max(part.batch_axis, part.time_axis):
        value = value.movedim((part.batch_axis, part.time_axis), (0, 1))
    return value.reshape(batch, steps, -1)


def find(small: Seen, large: Seen) -> Layout:
    """Raises LiftError when no output follows the batch."""
    parts = [p for p in (_part(i, small, large) for i in range(len(small.observation.outputs))) if p is not None]
    own = [p for p in parts if not _is_state(small.observation.outputs[p.index], small.observation)] or parts[:1]
    if not own:
        raise LiftError("no output of the model has a batch axis: return a tensor [B, …] or [B, T, …]")
    kept = tuple(p for p in own if (p.time_axis is None) == (own[0].time_axis is None))
    seen = small.observation.outputs
    cells = small.batch * (1 if own[0].time_axis is None else small.steps)
    width = sum(seen[p.index].numel() // cells for p in kept)
    return Layout("sequence" if own[0].time_axis is None else "step", kept, width)


def _part(index: int, small: Seen, large: Seen) -> Part | None:
    a, b = small.observation.outputs[index], large.observation.outputs[index]
    if a.dim() != b.dim():
        return None
    pairs = list(zip(a.shape, b.shape, strict=True))
    batch = next((i for i, pair in enumerate(pairs) if pair == (small.batch, large.batch)), None)
    if batch is not None:
        time = next((i for i, pair in enumerate(pairs) if pair == (small.steps, large.steps) and i != batch), None)
        fixed = small.steps == large.steps  # then a time axis cannot be told from any other: it is part of y
        return Part(index, batch, None if fixed else time)
    if pairs and pairs[0] == (small.batch * small.steps, large.batch * large.steps):
        return Part(index, _flat_order(small), 0, flat=True)
    return None


def _flat_order(seen: Seen) -> int:
    """0 when `[B*T, …]`, 1 when `[T*B, …]`: as the recurrent module's own output has it."""
    module = seen.observation.calls[-1].module
    return 0 if getattr(module, "batch_first", True) else 1


def _is_state(value: Tensor, observation: Observation) -> bool:
    """Whether the model merely hands out what its recurrent modules returned: the lifted graph has that already."""
    known = [t for call in observation.calls for t in (call.output, *call.final)]
    return any(value.shape == t.shape and torch.equal(value, t) for t in known)
