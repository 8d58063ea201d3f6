"""Record which tensor of a forward pass is computed from which, and put other tensors in at chosen places.

Tensors are told apart by identity, never by their values: two equal tensors may differ on the next input.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_unflatten

from export.user_code import is_export_file, is_user_file

# Functions that read sizes and types only: nothing of a tensor's values goes into their result.
SIZES = frozenset(
    """size shape dim ndim ndimension numel nelement stride dtype device layout is_cuda is_floating_point is_complex is_contiguous is_sparse
    is_quantized is_nested requires_grad requires_grad_ grad_fn grad is_leaf get_device type element_size __len__ names""".split()  # noqa: SIM905
)
# Functions whose result has the sizes of their argument and none of its values.
FILLED = frozenset(
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty rand_like randn_like new_tensor zero_".split()  # noqa: SIM905
)
# Functions whose result holds the same values in the same order, if it holds as many.
COPIES = frozenset(
    """clone contiguous detach detach_ to float view view_as reshape reshape_as squeeze unsqueeze flatten unflatten __getitem__ cpu cuda
    expand expand_as narrow select split chunk unbind type_as data alias""".split()  # noqa: SIM905
)


EQUALITIES = frozenset({"eq", "ne", "__eq__", "isclose", "isin"})
COMPARISONS = EQUALITIES | {"lt", "le", "gt", "ge", "clamp", "clip", "threshold", "bucketize", "searchsorted"}
MOST_COMPARED = 32  # numbers of one tensor that inputs are compared with, such as the bounds of buckets


class Key(NamedTuple):
    """One function call of a forward pass: the same in every run of the same code."""

    function: str  # of a recurrent module: its path
    place: tuple[Any, ...]  # code object and instruction of the user's innermost frame
    nth: int  # how many calls with the same function and place came before

    @property
    def code(self) -> tuple[Any, ...]:
        """The call without its number, to find the calls of each step of a loop."""
        return self.function, self.place


class Place(NamedTuple):
    """One tensor argument of a call."""

    key: Key
    position: int  # among the flattened arguments


@dataclass(frozen=True, eq=False)
class Event:
    """One call, with the tensors that went in, by position, and those that came out."""

    key: Key
    inputs: Mapping[int, Tensor]
    outputs: tuple[Tensor, ...]
    mutated: Tensor | None = None  # an argument that the call wrote into
    is_recurrent: bool = False
    compared: tuple[float, ...] = ()  # numbers that a comparison compares with

    @property
    def name(self) -> str:
        return self.key.function


class Dataflow(TorchFunctionMode):
    """Record every tensor function that user code calls. `replaced` are tensors to put in at places."""

    def __init__(self, replaced: Mapping[Place, Tensor] | None = None) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._replaced = dict(replaced or {})
        self._counts: Counter[tuple[Any, ...]] = Counter()
        self._suspended = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _function_name(func)
        if self._suspended or name in SIZES:
            return func(*args, **kwargs)
        key = self._key(name)
        leaves, spec = tree_flatten((args, kwargs))
        leaves = self._with_replaced(key, leaves)
        args, kwargs = tree_unflatten(leaves, spec)
        result = func(*args, **kwargs)
        if name == "__iter__":
            result = list(result)
        self._add(key, leaves, result)
        return iter(result) if name == "__iter__" else result

    def call(self, path: str, arguments: Sequence[Tensor | None], run: Callable[..., Any]) -> Any:
        """Record the call of a recurrent module as one event; `run` gets the arguments, with tensors put in."""
        key = self._key(path, ())
        leaves = self._with_replaced(key, list(arguments))
        self._suspended += 1
        try:
            result = run(*leaves)
        finally:
            self._suspended -= 1
        self._add(key, leaves, result, is_recurrent=True)
        return result

    def _key(self, name: str, place: tuple[Any, ...] | None = None) -> Key:
        place = _user_place() if place is None else place
        self._counts[name, place] += 1
        return Key(name, place, self._counts[name, place] - 1)

    def _with_replaced(self, key: Key, leaves: list[Any]) -> list[Any]:
        return [self._replaced.get(Place(key, i), leaf) for i, leaf in enumerate(leaves)] if self._replaced else leaves

    def _add(self, key: Key, leaves: Sequence[Any], result: Any, is_recurrent: bool = False) -> None:
        inputs = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        outputs = tuple(leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor))
        writes = key.function == "__setitem__" or (key.function.endswith("_") and not key.function.endswith("__"))
        mutated = leaves[0] if writes and leaves and isinstance(leaves[0], Tensor) else None
        if inputs or outputs:
            self.events.append(Event(key, inputs, outputs, mutated, is_recurrent, self._compared(key, leaves)))

    def _compared(self, key: Key, leaves: Sequence[Any]) -> tuple[float, ...]:
        """Return the numbers that a call compares with: Python's, and those of small tensors such as thresholds in buffers."""
        if key.function not in COMPARISONS or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return ()
        numbers = [float(leaf) for leaf in leaves if type(leaf) in (int, float)]
        self._suspended += 1
        try:
            small = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() < 2 and leaf.numel() <= MOST_COMPARED]
            return (*numbers, *(float(value) for leaf in small for value in leaf.detach().flatten().tolist()))
        finally:
            self._suspended -= 1

    def output(self, key: Key, index: int) -> Tensor:
        """Return output `index` of the call `key`."""
        return next(event.outputs[index] for event in self.events if event.key == key)


def _function_name(func: Any) -> str:
    name: str = getattr(func, "__name__", "") or str(func)
    if name in ("__get__", "__set__"):
        name = (resolve_name(func) or name).removesuffix(".__get__").removesuffix(".__set__").rpartition(".")[2]
    return name


def _user_place() -> tuple[Any, ...]:
    """Return the code and the instruction of the innermost user frame under this package's call of forward."""
    frame = sys._getframe(2)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        if is_export_file(frame.f_code.co_filename) and frame.f_code.co_name in ("observe", "forward"):
            return ()
        frame = frame.f_back  # type: ignore[assignment]
    return () if frame is None else (frame.f_code, frame.f_lasti)


class Origins:
    """Answer what a tensor of a recorded pass was computed from."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self._producers: dict[int, tuple[int, int]] = {}  # id of a tensor -> index of its event, and of the output
        for index, event in enumerate(events):
            for k, output in enumerate(event.outputs):
                self._producers.setdefault(id(output), (index, k))

    def producer(self, value: Tensor) -> tuple[int, int] | None:
        """Return the index of the event that made `value`, and of the output; None for an argument or a parameter."""
        return self._producers.get(id(value))

    def root(self, value: Tensor) -> Tensor:
        """Follow views and copies of the whole tensor back to the tensor that they show."""
        found = self.producer(value)
        while found is not None:
            event = self.events[found[0]]
            source = event.inputs.get(0)
            if event.name not in COPIES or source is None or source is value or source.numel() != value.numel():
                break
            value, found = source, self.producer(source)
        return value

    def sources(self, seeds: Mapping[int, Any]) -> dict[int, set[Any]]:
        """Return for every tensor, by id, the labels of those seeds whose values it depends on. `seeds` are labels by id of a tensor."""
        found: dict[int, set[Any]] = {key: {label} for key, label in seeds.items()}
        storages: dict[int, set[Any]] = {}
        for event in self.events:
            labels = set().union(*(self._labels(t, found, storages) for t in event.inputs.values()), set())
            if event.name in FILLED:
                labels = set()
            for output in event.outputs:
                found.setdefault(id(output), set()).update(labels)
            if event.mutated is not None and labels:
                found.setdefault(id(event.mutated), set()).update(labels)
                storages.setdefault(_storage(event.mutated), set()).update(labels)
        return found

    @staticmethod
    def _labels(value: Tensor, found: Mapping[int, set[Any]], storages: Mapping[int, set[Any]]) -> set[Any]:
        return found.get(id(value), set()) | (storages.get(_storage(value), set()) if storages else set())


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
