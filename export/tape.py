"""The tape: every recurrent call of a model passes by it, is written down, and may be given another initial state.

`Tape(model)` takes over the `forward` of each `nn.LSTM`, `nn.GRU`, `nn.RNN` and cell of `model`, a copy that nobody else uses; the user's
classes and their other attributes stay as they are. Nothing of the tape remains in a traced graph: a tracer sees tensors come and go.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn as rnn_utils

from export.recurrence import cell_step, scanned, scripted, written_out

State = tuple[Tensor, ...]  # (h, c), or (h,) for GRU and RNN; each [L*D, B, size], or [B, size] for cells


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One recurrent call of a forward pass: which module, and its how-manieth call."""

    path: str
    call: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What passed by at one site."""

    site: Site
    module: nn.Module
    given: State | None  # the initial state that the model itself passed
    output: Tensor  # as the module returned it
    final: State

    @property
    def is_cell(self) -> bool:
        return isinstance(self.module, nn.RNNCellBase)

    @property
    def names(self) -> tuple[str, ...]:
        return ("h", "c") if len(self.final) == 2 else ("h",)


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """What a packed sequence is here: every row has all T steps, so packing has nothing to leave out."""

    tensor: Tensor
    batch_first: bool


class Tape:
    """`calls` holds the calls of the last forward pass; `carried` the initial states to use instead of the model's own."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[Call] = []
        self.carried: dict[Site, State] = {}
        self.scanning = False  # torch.export is looking
        self._count: Counter[str] = Counter()
        self._namespaces = _namespaces(model)
        for path, module in model.named_modules():
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                object.__setattr__(module, "forward", partial(self._call, path, module, module.forward))

    @contextlib.contextmanager
    def running(self, carried: dict[Site, State], scanning: bool = False) -> Iterator[None]:
        """For the time of one forward pass."""
        self.calls, self.carried, self.scanning, self._count = [], carried, scanning, Counter()
        with _padded_instead_of_packed(self._namespaces):
            yield

    def _call(self, path: str, module: Any, original: Any, x: Any, hx: Any = None) -> Any:
        site = Site(path, self._count[path])
        self._count[path] += 1
        given = None if hx is None else tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        initial = self.carried.get(site, given)
        tensor = x.tensor if isinstance(x, Padded) else x
        if isinstance(module, nn.RNNCellBase):
            final = self._run_cell(module, original, tensor, initial)
            self.calls.append(Call(site, module, given, final[0], final))
            return _untuple(final)
        output, final = self._run(module, original, tensor, initial)
        self.calls.append(Call(site, module, given, output, final))
        return Padded(output, x.batch_first) if isinstance(x, Padded) else output, _untuple(final)

    def _run_cell(self, module: Any, original: Any, x: Tensor, initial: State | None) -> State:
        if initial is not None and self.carried:
            return cell_step(module, x, initial)
        return _tuple(original(x, None if initial is None else _untuple(initial)))

    def _run(self, module: Any, original: Any, x: Tensor, initial: State | None) -> tuple[Tensor, State]:
        if initial is not None and self.scanning:
            return written_out(module, x, initial, scanned)
        if initial is not None and module.mode == "LSTM" and module.proj_size and torch.onnx.is_in_onnx_export():
            return written_out(module, x, initial, scripted)
        output, final = original(x, None if initial is None else _untuple(initial))
        return output, _tuple(final)


def _tuple(state: Any) -> State:
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def _untuple(state: State) -> Any:
    return state if len(state) == 2 else state[0]


def _pack(x: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Padded:
    return Padded(x, batch_first)


def _pad(packed: Padded, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None) -> tuple[Tensor, Tensor]:
    x = packed.tensor if packed.batch_first == batch_first else packed.tensor.transpose(0, 1)
    lengths = torch.full((x.size(0 if batch_first else 1),), x.size(1 if batch_first else 0), dtype=torch.int64)
    return x, lengths


STAND_INS: dict[str, Any] = {"pack_padded_sequence": _pack, "pad_packed_sequence": _pad}


def _namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Where the model's own code looks `pack_padded_sequence` up."""
    forwards = [vars(base).get("forward") for module in model.modules() for base in type(module).__mro__]
    own = [forward.__globals__ for forward in forwards if isinstance(forward, FunctionType)]
    return list({id(namespace): namespace for namespace in [vars(rnn_utils), *own]}.values())


@contextlib.contextmanager
def _padded_instead_of_packed(namespaces: Sequence[dict[str, Any]]) -> Iterator[None]:
    """The service never pads: rows of different lengths meet in `handlers.batching`. So packing and unpacking pass tensors through."""
    originals = {name: getattr(rnn_utils, name) for name in STAND_INS}
    patched = [(space, name) for space in namespaces for name, value in originals.items() if space.get(name) is value]
    for space, name in patched:
        space[name] = STAND_INS[name]
    try:
        yield
    finally:
        for space, name in patched:
            space[name] = originals[name]
