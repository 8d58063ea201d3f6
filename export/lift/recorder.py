"""Record the recurrent calls of a forward pass, and run them from other initial states.

`CallRecorder(model).recording(…)` replaces `nn.LSTM.forward` and its kin for the time of one forward pass, for the modules of `model`. The
user's classes and their attributes stay as they are, and nothing of the recorder remains in a traced graph.

Two functions that the model's files may call are replaced for that time. `pack_padded_sequence` returns its tensor unchanged: the service
never pads. `len(x)` returns a size that a tracer can follow, where Python's returns a number.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MappingProxyType
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn as rnn_utils

from export.errors import LiftError
from export.graph.rnn import cell_step, scanned_layer, scripted_layer, unrolled
from export.lift.dataflow import Dataflow

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell)
State = tuple[Tensor, ...]  # (h, c), or (h,) for GRU and RNN; each [L*D, B, size], or [B, size] for cells


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One recurrent call of a forward pass: the module's path, and the number of the module's call, from 0."""

    path: str
    call: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What one recurrent call was given, and what it returned."""

    site: Site
    module: nn.Module
    given: State | None  # the initial state that the model itself passed
    output: Tensor  # as the module returned it
    final: State

    @property
    def is_cell(self) -> bool:
        return isinstance(self.module, nn.RNNCellBase)

    @property
    def rows(self) -> int:
        """The number of batch rows."""
        return self.final[0].shape[0 if self.is_cell else 1]

    @property
    def steps(self) -> int:
        """The number of time steps."""
        return 1 if self.is_cell else self.output.shape[1 if getattr(self.module, "batch_first", False) else 0]

    @property
    def names(self) -> tuple[str, ...]:
        return ("h", "c") if len(self.final) == 2 else ("h",)


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Stand for a packed sequence in which every row has all T steps."""

    tensor: Tensor
    batch_first: bool

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own lookups
            raise AttributeError(name)
        raise LiftError(f"the model reads .{name} of a packed sequence: do that on the padded tensor, before packing or after unpacking")


class CallRecorder:
    """Record the calls of one forward pass in `calls`, and run them from the states in `carried` in place of the model's own."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[Call] = []
        self.packed: list[Any] = []  # lengths that sequences were packed by
        self.carried: Mapping[Site, State] = {}
        self.flow = Dataflow()
        self.lifted = self.scanning = False
        self._count: Counter[str] = Counter()
        self._swaps = self._stand_ins(_namespaces(model))
        self._paths = {id(m): path for path, m in model.named_modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)}

    def _stand_ins(self, spaces: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], str, Any]]:
        """Return what replaces packing and `len` in the globals of the model's files."""
        replaced = {id(rnn_utils.pack_padded_sequence): self._pack, id(rnn_utils.pad_packed_sequence): _pad}
        found = [(space, name, replaced[id(value)]) for space in spaces for name, value in space.items() if id(value) in replaced]
        return found + [(space, "len", _len) for space in spaces if "len" not in space]

    @contextlib.contextmanager
    def recording(
        self,
        carried: Mapping[Site, State] = MappingProxyType({}),
        flow: Dataflow | None = None,
        lifted: bool = False,
        scanning: bool = False,
    ) -> Iterator[None]:
        """Record one forward pass.

        `carried` replaces initial states, and `flow` other tensors. `lifted` writes cells as plain operations, for graphs; `scanning`
        writes all recurrences as scans, for torch.export.
        """
        self.calls, self.packed, self._count = [], [], Counter()
        self.carried, self.flow, self.lifted, self.scanning = carried, flow or Dataflow(), lifted, scanning
        with contextlib.ExitStack() as stack:
            for space, name, value in self._swaps:
                stack.enter_context(mock.patch.dict(space, {name: value}))
            for kind in RECURRENT:
                stack.enter_context(mock.patch.object(kind, "forward", self._watched(kind.forward)))
            if flow is not None:
                stack.enter_context(flow)
            yield

    def _watched(self, original: Any) -> Any:
        """Return a recurrent class's `forward` that records its calls; the user's subclasses reach it by `super()`."""

        def forward(module: nn.Module, input: Any, hx: Any = None) -> Any:
            path = self._paths.get(id(module))
            if path is None:
                return original(module, input, hx)
            return self._call(path, module, partial(original, module), input, hx)

        return forward

    def _call(self, path: str, module: Any, original: Any, x: Any, hx: Any) -> Any:
        site = Site(path, self._count[path])
        self._count[path] += 1
        given = None if hx is None else _tuple(hx)
        if isinstance(x, rnn_utils.PackedSequence):
            raise LiftError(
                f"{path}: given a PackedSequence that the model's own modules did not pack: call pack_padded_sequence in forward"
            )
        tensor = x.tensor if isinstance(x, Padded) else x
        states = given or (None,) * (2 if isinstance(module, nn.LSTM | nn.LSTMCell) else 1)
        output, final = self.flow.call(path, (tensor, *states), partial(self._run, site, module, original))
        self.calls.append(Call(site, module, given, output, final))
        if isinstance(module, nn.RNNCellBase):
            return _untuple(final)
        return Padded(output, x.batch_first) if isinstance(x, Padded) else output, _untuple(final)

    def _run(self, site: Site, module: Any, original: Any, x: Tensor, *given: Tensor | None) -> tuple[Tensor, State]:
        """Run the module from the carried state of its site, or from `given`; return its output and its final state."""
        initial = self.carried.get(site) or (None if any(part is None for part in given) else cast(State, given))
        if isinstance(module, nn.RNNCellBase):
            final = self._run_cell(module, original, x, initial)
            return final[0], final
        return self._run_layers(module, original, x, initial)

    def _pack(self, x: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Padded:
        self.packed.append(lengths)
        return Padded(x, batch_first)

    def _run_cell(self, module: Any, original: Any, x: Tensor, initial: State | None) -> State:
        if initial is not None and self.lifted:
            return cell_step(module, x, initial)
        return _tuple(original(x, None if initial is None else _untuple(initial)))

    def _run_layers(self, module: Any, original: Any, x: Tensor, initial: State | None) -> tuple[Tensor, State]:
        if initial is not None and self.scanning:
            return unrolled(module, x, initial, scanned_layer)
        if initial is not None and module.mode == "LSTM" and module.proj_size and torch.onnx.is_in_onnx_export():
            return unrolled(module, x, initial, scripted_layer)
        output, final = original(x, None if initial is None else _untuple(initial))
        return output, _tuple(final)


def _tuple(state: Any) -> State:
    return tuple(state) if isinstance(state, tuple | list) else (state,)


def _untuple(state: State) -> Any:
    return state if len(state) == 2 else state[0]


def _pad(packed: Padded, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None) -> tuple[Tensor, Tensor]:
    x = packed.tensor if packed.batch_first == batch_first else packed.tensor.transpose(0, 1)
    lengths = torch.full((x.size(0 if batch_first else 1),), x.size(1 if batch_first else 0), dtype=torch.int64)
    return x, lengths


def _len(value: Any) -> Any:
    """Return the size of axis 0 of a tensor, which a tracer can follow; otherwise `len`."""
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def _namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """Return the globals of the files that define the model's classes, and those of torch's packing functions."""
    functions = [
        f for module in model.modules() for base in type(module).__mro__ for f in vars(base).values() if isinstance(f, FunctionType)
    ]
    own = [f.__globals__ for f in functions if not f.__module__.startswith("torch.")]
    return list({id(namespace): namespace for namespace in [vars(rnn_utils), *own]}.values())
