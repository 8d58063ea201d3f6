"""Lineages: which inputs a session has consumed, in which order, and what the model says after them offline.

A lineage is a node of a tree whose root is the start of a stream. Equal inputs behind an equal lineage are the same node, so that lineages
are compared by identity. It knows ONNX Runtime and NumPy; it does not know sessions or histories.
"""

import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from loadtests.load.expected import Array
from loadtests.offline import expected, load

State = Any  # a model's own
Rows = tuple[int, int]  # of the pool: start, stop


class Model(Protocol):
    """What answers are judged by."""

    tolerance: float  # scaled by the largest answer of the lineage, or by 1 where that is smaller

    def begin(self) -> State:
        """The state at the start of a stream."""

    def run(self, state: State, x: Array) -> tuple[State, Array]:
        """Consume `x`, `[T, …]`: the state behind it, and the prediction `[O]`, or `[T, O]`."""


class OfflineModel:
    """An archive's own `model.onnx`, with nothing of the serving path around it."""

    def __init__(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as contents:
            self.signature: dict[str, Any] = orjson.loads(contents.read("signature.json"))
            graph = contents.read(self.signature["artefacts"]["onnxruntime"])
        self.tolerance = float(self.signature["parity"]["tolerance"])
        self._session = load(graph)
        self._names = [entry["name"] for entry in self.signature["state"]]
        self._outputs = ["y", *(f"{name}_n" for name in self._names)]

    @property
    def digest(self) -> str:
        return str(self.signature["digests"]["model"])

    def begin(self) -> list[Array]:
        entries, initial = self.signature["state"], np.array(self.signature["initial"], np.float32)
        sizes = [entry["rows"] * entry["size"] for entry in entries]
        parts = np.split(initial if len(initial) else np.zeros(sum(sizes), np.float32), np.cumsum(sizes)[:-1])
        return [part.reshape(entry["rows"], 1, entry["size"]) for part, entry in zip(parts, entries, strict=True)]

    def run(self, state: list[Array], x: Array) -> tuple[list[Array], Array]:
        given = {f"{name}_0": value for name, value in zip(self._names, state, strict=True)}
        y, *after = self._session.run(self._outputs, {"x": x[None], **given})
        return after, np.asarray(y)[0]


def pool(archive: Path, seed: int) -> Array:
    """The rows that a history's inputs are named by, `[N, F]` or `[N]`: the load test's sequences, end to end."""
    x = expected(archive, seed).x
    return x.reshape(-1, *x.shape[2:])


class Lineage:
    """What was consumed: the parent's inputs, then `x`. `y` is the prediction of the last request's rows."""

    __slots__ = ("parent", "position", "scale", "state", "x", "y")

    def __init__(self, parent: "Lineage | None", x: Array, state: State, y: Array) -> None:
        self.parent, self.x, self.state, self.y = parent, x, state, y
        self.position: int = parent.position + len(x) if parent else 0
        self.scale: float = max(parent.scale if parent else 1.0, float(np.abs(y).max()) if y.size else 0.0)


class Lineages:
    """Every lineage that a search has come upon, each made and run once."""

    def __init__(self, model: Model, rows: Array) -> None:
        self.model, self._rows = model, rows
        self.root = Lineage(None, rows[:0], model.begin(), np.empty(0))
        self._children: dict[tuple[Lineage, bytes], Lineage] = {}
        self._contents: dict[Rows, bytes] = {}

    def content(self, inputs: Rows) -> bytes:
        """Equal for equal inputs, wherever in the pool they stand."""
        if inputs not in self._contents:
            self._contents[inputs] = self._rows[slice(*inputs)].tobytes()
        return self._contents[inputs]

    def behind(self, parent: Lineage, inputs: Rows) -> Lineage:
        """The lineage that `inputs` lead to."""
        key = parent, self.content(inputs)
        if key not in self._children:
            x = self._rows[slice(*inputs)]
            self._children[key] = Lineage(parent, x, *self.model.run(parent.state, x))
        return self._children[key]

    def whole(self, end: Lineage) -> Array:
        """The last prediction, all inputs run in one go from the start of a stream."""
        parts, node = [end.x], end
        while node.parent is not None:
            node = node.parent
            parts.append(node.x)
        _, y = self.model.run(self.model.begin(), np.concatenate(parts[::-1]))
        return y[-len(end.x) :] if end.y.ndim == 2 else y
