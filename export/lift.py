"""Lift the state out of a module: `forward(x)` becomes `forward(x, h_0, c_0) -> (y, output, h_n, c_n)`, the user's class unedited.

How: a copy of the model gets each `nn.LSTM` replaced by a `Carried` one, which does the same sum but takes its initial state from a tape
and leaves its output and final state there. `Lifted` fills the tape before the model's own `forward` and empties it after. A tracer sees
tensors come in and go out; nothing of the tape remains in the graph.
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from export.errors import LiftError
from export.projection import lstm_as_loop
from handlers.signature import StateEntry

Pair = tuple[Tensor, Tensor]


@dataclass(eq=False)
class Tape:
    """What passes between `Lifted` and its recurrent modules during one forward call."""

    initial: Pair | None = None  # h_0 [L*D, B, P], c_0 [L*D, B, H]
    final: Pair | None = None  # h_n, c_n alike
    output: Tensor | None = None  # [B, T, D*P]
    calls: int = field(default=0)


class Carried(nn.Module):
    """An `nn.LSTM` whose initial state comes from the tape."""

    def __init__(self, lstm: nn.LSTM, tape: Tape) -> None:
        super().__init__()
        self.lstm, self._tape = lstm, tape

    def forward(self, x: Tensor, hx: Pair | None = None) -> tuple[Tensor, Pair]:
        if hx is not None:
            raise LiftError("the model passes an initial state of its own to its LSTM; call it without one: the service carries the state")
        assert self._tape.initial is not None  # Lifted filled it
        if self.lstm.proj_size and torch.onnx.is_in_onnx_export():
            output, final = lstm_as_loop(self.lstm, x, self._tape.initial)
        else:
            output, final = self.lstm(x, self._tape.initial)
        self._tape.output, self._tape.final = output if self.lstm.batch_first else output.transpose(0, 1), final
        self._tape.calls += 1
        return output, final


class Lifted(nn.Module):
    """The model with its state explicit: x `[B, T, F]` or `[B, T]`, h_0 `[L*D, B, P]`, c_0 `[L*D, B, H]`."""

    def __init__(self, model: nn.Module, tape: Tape) -> None:
        super().__init__()
        self.model, self._tape = model, tape

    def forward(self, x: Tensor, h_0: Tensor, c_0: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self._tape.initial, self._tape.calls = (h_0, c_0), 0
        y = self.model(x)
        if self._tape.calls != 1 or self._tape.final is None or self._tape.output is None:
            raise LiftError(f"the model ran its LSTM {self._tape.calls} times in one forward; expected once")
        return y, self._tape.output, *self._tape.final


@dataclass(frozen=True)
class Lift:
    """A lifted model and the layout of its state."""

    module: Lifted
    state: tuple[StateEntry, ...]  # h, c: the order of inputs and of outputs, and their sorted order alike
    output_size: int  # D*P
    description: dict[str, int | bool]

    def zeros(self, batch: int) -> list[Tensor]:
        return [torch.zeros(entry.rows, batch, entry.size) for entry in self.state]


def lift(model: nn.Module) -> Lift:
    """Lift the state out of a copy of `model`, in evaluation mode. Raises LiftError, naming what stands in the way."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    recurrent = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.RNNBase | nn.RNNCellBase)]
    names = ", ".join(f"{path or '(the model itself)'}: {type(module).__name__}" for path, module in recurrent) or "none"
    path, lstm = recurrent[0] if len(recurrent) == 1 else ("", None)
    if not isinstance(lstm, nn.LSTM):
        raise LiftError(f"expected exactly one nn.LSTM in the model, found {names}")
    if not path:
        raise LiftError("the model is a bare nn.LSTM, which predicts nothing: wrap it in a module with a head")
    tape = Tape()
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, Carried(lstm, tape))
    return Lift(Lifted(model, tape).eval(), _entries(lstm), _directions(lstm) * _projected(lstm), _describe(lstm))


def _directions(lstm: nn.LSTM) -> int:
    return 2 if lstm.bidirectional else 1


def _projected(lstm: nn.LSTM) -> int:
    """P."""
    return lstm.proj_size or lstm.hidden_size


def _entries(lstm: nn.LSTM) -> tuple[StateEntry, ...]:
    rows = lstm.num_layers * _directions(lstm)
    return StateEntry("h", rows, _projected(lstm)), StateEntry("c", rows, lstm.hidden_size)


def _describe(lstm: nn.LSTM) -> dict[str, int | bool]:
    return {
        "layers": lstm.num_layers,
        "directions": _directions(lstm),
        "hidden_size": lstm.hidden_size,
        "proj_size": lstm.proj_size,
    }
