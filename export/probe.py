"""Run a model and see what it is: which axes are batch and time, which recurrent calls begin with a state that a stream can carry.

Nothing is read off the model's source or its layers' names; everything here is what it did on inputs. A probe never changes the model
given: each run takes a fresh copy, so a module that keeps `self.hidden` between calls cannot carry one run into the next.
"""

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import LiftError
from export.tape import Call, Tape

Inputs = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Observation:
    """One forward pass of a fresh copy."""

    outputs: list[Tensor]
    calls: list[Call]


@dataclass(frozen=True)
class Source:
    """Where one of `forward`'s arguments comes from at serving time."""

    kind: str  # "x" | "static" | "lengths" | "state"
    width: int = 0  # columns of a static input


@dataclass(frozen=True)
class Arguments:
    """How the model's own arguments follow from the graph's one x."""

    sources: tuple[Source, ...]
    axis: int  # of the batch, in the model's own x

    def of(self, x: Tensor, state: Any) -> list[Any]:
        """x `[B, T, F]` with static inputs as its last columns, or `[B, T]`."""
        offset = x.shape[-1] - sum(source.width for source in self.sources)
        arguments: list[Any] = []
        for source in self.sources:
            if source.kind == "x":
                series = x[..., :offset] if offset < x.shape[-1] else x
                arguments.append(series.transpose(0, 1) if self.axis else series)
            elif source.kind == "static":
                arguments.append(x[:, -1, offset : offset + source.width])  # [B, K]: the same at every step
                offset += source.width
            elif source.kind == "lengths":
                arguments.append(torch.full((x.size(0),), x.size(1), dtype=torch.int64))
            else:
                arguments.append(state)
        return arguments


def observe(model: nn.Module, inputs: Inputs) -> Observation:
    """Run a copy of the model once. Raises LiftError when it raises, with the user's own line."""
    fresh = fresh_copy(model)
    tape = Tape(fresh)
    try:
        with torch.no_grad(), tape.running({}):
            result = fresh(*inputs)
    except Exception as e:
        raise LiftError(
            f"the model fails on the example: {type(e).__name__}: {e} (at {user_line(e)}); check the example's shape and dtype"
        ) from e
    return Observation(tensors(result), tape.calls)


def fresh_copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except RuntimeError as e:  # a state kept from training is part of a graph, which cannot be copied
        raise LiftError(f"the model cannot be copied: {e}; build it anew from its factory and load the weights") from e


def tensors(result: Any) -> list[Tensor]:
    """All tensors in what a model returned, in order; tuples, lists and dictionaries are walked."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for value in result.values() for t in tensors(value)]
    if isinstance(result, tuple | list):
        return [t for value in result for t in tensors(value)]
    return []


def user_line(error: BaseException) -> str:
    """File and line of the innermost frame outside torch and this package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and Path(f.filename).parent != Path(__file__).parent]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else "unknown line"


def vary(x: Tensor, generator: torch.Generator) -> Tensor:
    """Another input of the same shape: token ids from those of `x`, or numbers of its scale."""
    if not x.is_floating_point():
        return x.flatten()[torch.randint(x.numel(), x.shape, generator=generator)]
    scale = x.std() if x.numel() > 1 and float(x.std()) > 0 else torch.tensor(1.0)
    return x + scale * torch.randn(x.shape, generator=generator)


def resize(x: Tensor, axis: int, size: int) -> Tensor:
    """`x` repeated and cut to `size` along `axis`."""
    repeats = [1] * x.dim()
    repeats[axis] = -(-size // x.shape[axis])
    return x.repeat(*repeats).narrow(axis, 0, size)


def sources(inputs: Inputs, observation: Observation, batch_axis: int) -> list[Source]:
    """What each argument behind the first is: a state it passes on to a recurrent module, lengths, or a static input."""
    x: Tensor = inputs[0]
    batch, steps = x.shape[batch_axis], x.shape[1 - batch_axis]
    passed = [part for call in observation.calls for part in call.given or ()]
    result = [Source("x")]
    for position, value in enumerate(inputs[1:], 1):
        parts = tensors(value)
        if parts and all(any(part is other for other in passed) for part in parts):
            result.append(Source("state"))
        elif isinstance(value, Tensor) and value.shape == (batch,) and not value.is_floating_point() and int(value.max()) <= steps:
            result.append(Source("lengths"))
        elif isinstance(value, Tensor) and value.dim() == 2 and len(value) == batch and value.is_floating_point() and x.is_floating_point():
            result.append(Source("static", value.shape[1]))
        else:
            raise LiftError(
                f"argument {position} of forward is neither a state, nor lengths [B], nor static numbers [B, K] beside a numeric x: "
                "wrap the model in a module that takes x alone, or x and those"
            )
    return result


def constant_state(first: Call, second: Call) -> tuple[Tensor, ...] | None:
    """The initial state of a site, `[rows, size]` each, if it is the same whatever the input: zeros when the model passes none.

    None when it depends on the input: then the model derives it anew in every pass, and there is nothing to carry.
    """
    if first.given is None or second.given is None:
        return tuple(torch.zeros_like(rows(part, 0, first.is_cell)) for part in first.final)
    pairs = list(zip(first.given, second.given, strict=True))
    same = all(
        torch.equal(rows(a, 0, first.is_cell), rows(b, i, first.is_cell)) for a, b in pairs for i in range(batch_of(b, first.is_cell))
    )
    return tuple(rows(a, 0, first.is_cell) for a, _ in pairs) if same else None


def rows(part: Tensor, b: int, is_cell: bool) -> Tensor:
    """One batch row of a state tensor: `[L*D, size]`, or `[1, size]` for a cell."""
    return part[b : b + 1] if is_cell else part[:, b]


def batch_of(part: Tensor, is_cell: bool) -> int:
    return part.shape[0] if is_cell else part.shape[1]


def batch_axis(model: nn.Module, inputs: Inputs) -> int:
    """0 for a model that takes `[B, T, …]`, 1 for `[T, B, …]`: the axis that the recurrent modules' batch follows."""
    x: Tensor = inputs[0]
    if x.dim() < 2:
        raise LiftError("x: expected a batch [B, T, F] or [B, T]; for a model without a batch axis, wrap it to take one")
    base = observe(model, inputs)
    if not base.calls:
        raise LiftError("no nn.LSTM, nn.GRU, nn.RNN or cell was called in the model's forward: there is no state to lift")
    for axis in (0, 1):
        try:
            wider = observe(model, tuple(_widen(value, axis, x.shape[axis]) for value in inputs))
        except LiftError:
            continue
        if _batches(wider.calls) == {b * 2 for b in _batches(base.calls)} == {2 * x.shape[axis]}:
            return axis
    raise LiftError("the batch is fixed by the model, or x has none: use x.size(0) where the model builds shapes, and let x be [B, T, F]")


def _batches(calls: Sequence[Call]) -> set[int]:
    return {batch_of(call.final[0], call.is_cell) for call in calls}


def _widen(value: Any, axis: int, size: int) -> Any:
    """Twice the batch: along `axis` of x; along the batch axis of lengths, static inputs `[B, …]` and states `[L*D, B, H]`."""
    if isinstance(value, tuple | list):
        return type(value)(_widen(part, axis, size) for part in value)
    where = axis if value.dim() > axis and value.shape[axis] == size else next((i for i, n in enumerate(value.shape) if n == size), 0)
    return torch.cat([value, value], where)
