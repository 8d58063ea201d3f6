"""The three ways in which a state enters and leaves a forward pass: at a recurrent call, as an argument, inside a loop over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from export.lift.dataflow import Dataflow, Key, Place
from export.lift.recorder import Call, Site, State
from handlers.signature import StateEntry


@dataclass
class Start:
    """The states from which a pass of the model begins."""

    sites: dict[Site, State] = field(default_factory=dict)
    arguments: dict[int, Tensor] = field(default_factory=dict)  # by the position of the leaf
    places: dict[Place, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a pass of the model gave."""

    outputs: Sequence[Tensor]
    calls: Mapping[Site, Call]
    flow: Dataflow


class Carrier(Protocol):
    """One or more state tensors that a stream carries."""

    @property
    def entries(self) -> tuple[StateEntry, ...]: ...

    @property
    def initial(self) -> tuple[Tensor, ...]:
        """`[rows, size]` each: what a new stream begins with."""

    def enter(self, parts: Sequence[Tensor], start: Start) -> None:
        """Put the state tensors, `[rows, B, size]` each, into the start of a pass."""

    def leave(self, run: Run) -> list[Tensor]:
        """Return the state tensors after the pass, `[rows, B, size]` each."""


@dataclass(frozen=True)
class BatchShape:
    """The shape of a state tensor in the model, and its conversion to and from the graph's `[rows, B, size]`."""

    shape: tuple[int, ...]
    axis: int  # of the batch

    @property
    def size(self) -> int:
        return self.shape[-1] if self.axis != len(self.shape) - 1 else 1

    @property
    def rows(self) -> int:
        rest = 1
        for axis, length in enumerate(self.shape):
            rest *= length if axis != self.axis else 1
        return rest // self.size

    def to_graph(self, value: Tensor) -> Tensor:
        """`shape` -> `[rows, B, size]`."""
        if len(self.shape) == 3 and self.axis == 1:
            return value
        return value.movedim(self.axis, 0).reshape(-1, self.rows, self.size).transpose(0, 1)

    def from_graph(self, value: Tensor) -> Tensor:
        """`[rows, B, size]` -> `shape`."""
        if len(self.shape) == 3 and self.axis == 1:
            return value
        others = [length for axis, length in enumerate(self.shape) if axis != self.axis]
        return value.transpose(0, 1).reshape(-1, *others).movedim(0, self.axis)


@dataclass(frozen=True)
class SiteState:
    """The state of one recurrent call: the call runs from the given state, and its final state is carried on."""

    site: Site
    is_cell: bool
    entries: tuple[StateEntry, ...]
    initial: tuple[Tensor, ...]
    arguments: tuple[tuple[int, int], ...] = ()  # leaves that hold this state, and which of its tensors

    def enter(self, parts: Sequence[Tensor], start: Start) -> None:
        given = tuple(part[0] for part in parts) if self.is_cell else tuple(parts)
        start.sites[self.site] = given
        start.arguments.update({leaf: given[part] for leaf, part in self.arguments})

    def leave(self, run: Run) -> list[Tensor]:
        return [part[None] if self.is_cell else part for part in run.calls[self.site].final]


@dataclass(frozen=True)
class ArgumentState:
    """A state that is an argument of forward and that the model changes before its recurrent call: the model does all of it itself."""

    leaf: int
    shape: BatchShape
    returned: int | None  # which of the model's outputs is the next state
    final: tuple[Site, int] | None  # else: the final state of this call, and which of its tensors
    entries: tuple[StateEntry, ...]
    initial: tuple[Tensor, ...]

    def enter(self, parts: Sequence[Tensor], start: Start) -> None:
        start.arguments[self.leaf] = self.shape.from_graph(parts[0])

    def leave(self, run: Run) -> list[Tensor]:
        if self.returned is not None:
            return [self.shape.to_graph(run.outputs[self.returned])]
        assert self.final is not None
        site, part = self.final
        return [self.shape.to_graph(run.calls[site].final[part].reshape(*self.shape.shape[:-2], -1, self.shape.shape[-1]))]


@dataclass(frozen=True)
class LoopState:
    """A value that goes from one step of the model's own loop to the next: it enters where a step first reads it."""

    places: tuple[Place, ...]
    key: Key  # of the call that makes the next step's value
    output: int
    shape: BatchShape
    entries: tuple[StateEntry, ...]
    initial: tuple[Tensor, ...]

    def enter(self, parts: Sequence[Tensor], start: Start) -> None:
        value = self.shape.from_graph(parts[0])
        start.places.update(dict.fromkeys(self.places, value))

    def leave(self, run: Run) -> list[Tensor]:
        return [self.shape.to_graph(run.flow.output(self.key, self.output))]
