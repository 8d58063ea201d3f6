"""Describe the arguments of a model's forward leaf by leaf, and compute each of them from the graph's x.

The example is flattened like any nest of tuples, lists and dictionaries. Its first tensor is x, `[B, T, …]` or `[T, B, …]`. Every other
leaf has a role: a *series* has one value a step, a *static* input one a sequence, *lengths* are all T, a *state* is carried by the graph,
and a *constant* (None, a number, a flag) stays as it is. Series and static inputs are columns of the graph's x.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from export.errors import LiftError
from export.lift.recorder import Site

EXACT = 2**24  # float32 holds every integer up to this
RIDING = ("x", "series", "static")  # in this order they are the columns of the graph's x


@dataclass(frozen=True)
class Axes:
    """Where the batch and time are in x and in series beside it."""

    batch: int = 0
    time: int = 1

    def to_model(self, value: Tensor) -> Tensor:
        """`[B, T, …]` -> the model's order."""
        return value.movedim((0, 1), (self.batch, self.time)) if self != Axes() else value

    def from_model(self, value: Tensor) -> Tensor:
        """The model's order -> `[B, T, …]`."""
        return value.movedim((self.batch, self.time), (0, 1)) if self != Axes() else value


AXES = {"BTF": Axes(0, 1), "TBF": Axes(1, 0), "BFT": Axes(0, 2)}  # as a user names them


@dataclass(frozen=True)
class StateLink:
    """How a state that is an argument goes through the model."""

    site: Site  # the recurrent call that begins with it
    part: int  # 0 for h, 1 for c
    unchanged: bool  # given to the call as it is, and returned as the call left it
    returned: int | None  # which of the model's outputs is the next state, if one is
    axis: int  # of the batch


@dataclass(frozen=True, eq=False)
class Leaf:
    """One leaf of the example, and its role."""

    role: str  # one of RIDING, or "lengths", "state", "constant"
    value: Any  # as the example has it
    position: int = 0  # among the leaves
    state: StateLink | None = None  # of a state

    axes: Axes = Axes()  # of x and of a series: [B, T] beside an x of [B, C, T] has its own

    @property
    def trailing(self) -> tuple[int, ...]:
        """The sizes of the axes other than batch and time; other than the batch for a static input."""
        if self.role == "static":
            return tuple(self.value.shape[1:])
        return tuple(size for axis, size in enumerate(self.value.shape) if axis not in (self.axes.batch, self.axes.time))

    @property
    def width(self) -> int:
        """The number of columns of the graph's x."""
        return math.prod(self.trailing) if self.role in RIDING else 0

    def resized(self, batch: int, steps: int) -> Any:
        """Return the example's value with `batch` rows and `steps` steps; zeros for a state."""
        if self.role in ("x", "series"):
            return resize(resize(self.value, self.axes.batch, batch), self.axes.time, steps)
        if self.role == "static":
            return resize(self.value, 0, batch)
        if self.role == "lengths":
            return torch.full((batch,), steps, dtype=self.value.dtype)
        return torch.zeros_like(resize(self.value, self.state.axis, batch)) if self.state else self.value

    def from_columns(self, columns: Tensor) -> Tensor:
        """Return the model's argument from its columns `[B, T, width]`, or from token ids `[B, T]`."""
        if self.role == "static":
            columns = columns[:, -1]  # [B, K]: the same at every step
        if len(self.trailing) != 1 and columns.dim() > 2 - (self.role == "static"):
            columns = columns.reshape(*columns.shape[: 1 if self.role == "static" else 2], *self.trailing)
        columns = columns if self.value.is_floating_point() else columns.to(self.value.dtype)
        if self.role != "static":
            columns = self.axes.to_model(columns)
        return columns.contiguous()  # models call view on what a DataLoader made contiguous


@dataclass(frozen=True, eq=False)
class Arguments:
    """The leaves of forward's arguments, in the example's order."""

    leaves: tuple[Leaf, ...]
    spec: TreeSpec
    axes: Axes  # of the model's own x

    @property
    def batch(self) -> int:
        """B of the example."""
        return int(self._x.value.shape[self.axes.batch])

    @property
    def steps(self) -> int:
        """T of the example."""
        return int(self._x.value.shape[self.axes.time])

    @property
    def tokens(self) -> bool:
        """Whether the graph's x is token ids `[B, T]` rather than numbers `[B, T, F]`."""
        x = self._x.value
        return not x.is_floating_point() and x.dim() == 2 and self.width == 1

    @property
    def width(self) -> int:
        return sum(leaf.width for leaf in self.leaves)

    @property
    def static_width(self) -> int:
        """The number of static columns: the last ones of x."""
        return sum(leaf.width for leaf in self.leaves if leaf.role == "static")

    def integer_mask(self) -> Tensor:
        """Return a mask over the columns of x that are integers in the model's arguments."""
        return torch.tensor([not leaf.value.is_floating_point() for leaf in self.riding for _ in range(leaf.width)])

    @property
    def states(self) -> tuple[Leaf, ...]:
        """The leaves that are states."""
        return tuple(leaf for leaf in self.leaves if leaf.role == "state")

    @property
    def _x(self) -> Leaf:
        return next(leaf for leaf in self.leaves if leaf.role == "x")

    def resized(self, batch: int, steps: int) -> Any:
        """Return forward's arguments: the example repeated and cut to other sizes."""
        return tree_unflatten([leaf.resized(batch, steps) for leaf in self.leaves], self.spec)

    def window(self) -> Tensor:
        """Return the example as the graph takes it, with two rows: `[2, T, F]` or `[2, T]`."""
        if self.tokens:
            return self.axes.from_model(self._x.resized(2, self.steps)).contiguous()
        return torch.cat([self._as_columns(leaf) for leaf in self.riding], -1)

    def _as_columns(self, leaf: Leaf) -> Tensor:
        value: Tensor = leaf.resized(2, self.steps)
        if leaf.role == "static":
            return value.reshape(2, 1, leaf.width).expand(-1, self.steps, -1).float()
        return leaf.axes.from_model(value).reshape(2, self.steps, leaf.width).float()

    @property
    def riding(self) -> list[Leaf]:
        """The leaves that are columns of x, in the order of the columns."""
        return [leaf for role in RIDING for leaf in self.leaves if leaf.role == role]

    def from_graph(self, x: Tensor, states: Mapping[int, Tensor] = MappingProxyType({})) -> Any:
        """Return forward's arguments for the graph's x. `states` are by the leaf's position; a state that is not among them is zeros."""
        offset, taken = 0, {}
        for leaf in self.riding:
            columns = x if leaf.width == self.width else x[..., offset : offset + leaf.width]
            taken[id(leaf)] = leaf.from_columns(columns)
            offset += leaf.width
        values = [taken[id(leaf)] if id(leaf) in taken else states.get(leaf.position, self._other(leaf, x)) for leaf in self.leaves]
        return tree_unflatten(values, self.spec)

    def _other(self, leaf: Leaf, x: Tensor) -> Any:
        if leaf.role == "lengths":
            return torch.full((x.size(0),), x.size(1), dtype=leaf.value.dtype)
        if leaf.role == "constant":
            return leaf.value
        assert leaf.state is not None
        zeros = torch.zeros_like(leaf.value.narrow(leaf.state.axis, 0, 1))
        return zeros.expand(*(x.size(0) if axis == leaf.state.axis else size for axis, size in enumerate(zeros.shape)))


def resize(x: Tensor, axis: int, size: int) -> Tensor:
    """Return `x` repeated and cut to `size` along `axis`."""
    repeats = [1] * x.dim()
    repeats[axis] = -(-size // x.shape[axis])
    return x.repeat(*repeats).narrow(axis, 0, size).contiguous()


def assign_roles(
    values: Sequence[Any],
    spec: TreeSpec,
    first: int,
    axes: Axes,
    states: Mapping[int, StateLink],
    lengths: Collection[int] = (),
    static: Collection[int] = (),
) -> Arguments:
    """Give every leaf its role; `first` is the position of x. Raises LiftError for a leaf that fits none.

    `states` are the links of state leaves by position; `lengths` the positions of lengths; `static` those of leaves that are not series
    though their shape allows it.
    """
    x: Tensor = values[first]
    batch, steps = x.shape[axes.batch], x.shape[axes.time]
    found = []
    for position, value in enumerate(values):
        if position == first:
            found.append(Leaf("x", value, position, axes=axes))
        elif position in states:
            found.append(Leaf("state", value, position, states[position]))
        elif not isinstance(value, Tensor):
            found.append(Leaf("constant", value, position))
        elif position in lengths:
            found.append(Leaf("lengths", value, position))
        else:
            role = "static" if position in static else _role(value, batch, steps, axes, position)
            found.append(Leaf(role, value, position, axes=_series_axes(value, batch, steps, axes) or axes))
    result = Arguments(tuple(found), spec, axes)
    for leaf in [] if result.tokens else result.riding:
        _check_integers(leaf)
    return result


def _check_integers(leaf: Leaf) -> None:
    """Raise LiftError for integers that float32 cannot hold: beside other columns they are sent as float32."""
    if not leaf.value.is_floating_point() and leaf.value.dtype != torch.bool:
        largest = int(leaf.value.abs().max())
        if largest > EXACT:
            raise LiftError(
                f"argument {leaf.position} of forward holds {largest}: integers beyond 2^24 are not exact in float32, in which inputs are "
                "sent; number ids from 0, and count times from a recent date"
            )


def _series_axes(value: Tensor, batch: int, steps: int, axes: Axes) -> Axes | None:
    """Return where batch and time are in a series beside x: as in x, or first. None for what is no series."""
    for own in (axes, Axes()):
        if value.dim() > max(own.batch, own.time) and (value.shape[own.batch], value.shape[own.time]) == (batch, steps):
            return own
    return None


def _role(value: Tensor, batch: int, steps: int, axes: Axes, position: int) -> str:
    shape = tuple(value.shape)
    if _series_axes(value, batch, steps, axes):
        return "series"
    if value.dim() and shape[0] == batch:
        return "static"
    raise LiftError(
        f"argument {position} of forward, {list(value.shape)} beside x with B={batch} and T={steps}, is not clearly a state, lengths [B], "
        "a series [B, T, …] or a static input [B, K]: give an example where these sizes differ, or wrap the model in one that takes x alone"
    )


def tensor_positions(values: Sequence[Any]) -> list[int]:
    """Return the positions of the tensors among the leaves. Raises LiftError when there are none."""
    positions = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
    if not positions:
        raise LiftError("the example holds no tensor: give forward's arguments, x first")
    return positions
