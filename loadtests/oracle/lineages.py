"""Track which inputs a session has consumed, in which order, and what the model predicts after them offline.

A lineage is a node of a tree whose root is the start of a stream. Equal inputs after an equal lineage give the same node, so lineages
are compared by identity.
"""

from typing import Any, Protocol

import numpy as np

from loadtests.offline import Array

State = Any  # of a model, opaque here
Rows = tuple[int, int]  # of the pool: start, stop


class Model(Protocol):
    """The model that predictions are compared with."""

    tolerance: float  # relative to the largest prediction of the lineage, or to 1 where that is smaller

    def begin(self) -> State:
        """Return the state at the start of a stream."""

    def run(self, state: State, x: Array) -> tuple[State, Array]:
        """Consume `x`, `[T, …]`; return the state after it and the prediction, `[O]` or `[T, O]`."""


class Lineage:
    """What was consumed: the parent's inputs, then `x`. `y` is the prediction for the rows of the last request."""

    __slots__ = ("parent", "position", "scale", "state", "x", "y")

    def __init__(self, parent: "Lineage | None", x: Array, state: State, y: Array) -> None:
        self.parent, self.x, self.state, self.y = parent, x, state, y
        self.position: int = parent.position + len(x) if parent else 0
        self.scale: float = max(parent.scale if parent else 1.0, float(np.abs(y).max()) if y.size else 0.0)


class Lineages:
    """Every lineage that a search has met, each run through the model once."""

    def __init__(self, model: Model, rows: Array) -> None:
        self.model, self._rows = model, rows
        self.root = Lineage(None, rows[:0], model.begin(), np.empty(0))
        self._children: dict[tuple[Lineage, bytes], Lineage] = {}
        self._contents: dict[Rows, bytes] = {}

    def content(self, inputs: Rows) -> bytes:
        """Return the bytes of the inputs: equal for equal inputs, wherever in the pool they are."""
        if inputs not in self._contents:
            self._contents[inputs] = self._rows[slice(*inputs)].tobytes()
        return self._contents[inputs]

    def extend(self, parent: Lineage, inputs: Rows) -> Lineage:
        """Return the lineage of a session that consumes `inputs` after `parent`."""
        key = parent, self.content(inputs)
        if key not in self._children:
            x = self._rows[slice(*inputs)]
            self._children[key] = Lineage(parent, x, *self.model.run(parent.state, x))
        return self._children[key]

    def uncut(self, end: Lineage) -> Array:
        """Return the last prediction of `end` when all its inputs are run in one piece."""
        parts, node = [end.x], end
        while node.parent is not None:
            node = node.parent
            parts.append(node.x)
        _, y = self.model.run(self.model.begin(), np.concatenate(parts[::-1]))
        return y[-len(end.x) :] if end.y.ndim == 2 else y
