"""Write recurrent layers as plain operations, for the two targets that cannot take `nn.LSTM` as it is.

- ONNX: the standard's LSTM operator has no projection, so an LSTM with `proj_size` becomes a scripted loop.
- torch.export: it would unroll an `nn.LSTM` over the example's T, so every recurrence becomes a `scan`.

Formulas and gate orders (LSTM i, f, g, o; GRU r, z, n) are those of the documentation of `torch.nn.LSTM`, `GRU` and `RNN`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

Loop = Callable[[nn.RNNBase, str, Tensor, tuple[Tensor, ...]], tuple[Tensor, tuple[Tensor, ...]]]


def unrolled(rnn: nn.RNNBase, x: Tensor, initial: tuple[Tensor, ...], loop: Loop) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute `rnn(x, initial)` in evaluation mode, layer by layer. Initial and final states are `[L*D, B, size]` each."""
    x = x.transpose(0, 1) if rnn.batch_first else x  # [T, B, F]
    directions = ["", "_reverse"] if rnn.bidirectional else [""]
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(rnn.num_layers):
        outputs = []
        for direction in directions:
            suffix = f"_l{layer}{direction}"
            state = tuple(part[len(finals)] for part in initial)
            output, final = loop(rnn, suffix, _projected_input(rnn, suffix, x.flip(0) if direction else x), state)
            outputs.append(output.flip(0) if direction else output)
            finals.append(final)
        x = torch.cat(outputs, -1)  # [T, B, D*P]
    stacked = tuple(torch.stack(part) for part in zip(*finals, strict=True))
    return x.transpose(0, 1) if rnn.batch_first else x, stacked


def _weight(rnn: nn.RNNBase | nn.RNNCellBase, name: str, suffix: str) -> Tensor:
    weight: Tensor = getattr(rnn, name + suffix)
    return weight


def _projected_input(rnn: nn.RNNBase | nn.RNNCellBase, suffix: str, x: Tensor) -> Tensor:
    """Return the input's share of the gates, all steps at once: `[T, B, gates*H]`, or `[B, gates*H]` for a cell."""
    gates = torch.matmul(x, _weight(rnn, "weight_ih", suffix).t())
    return gates + _weight(rnn, "bias_ih", suffix) if rnn.bias else gates


@torch.jit.script
def _lstm_loop(gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, b_hh: Tensor, w_hr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    outputs: list[Tensor] = []
    for t in range(gates.size(0)):
        i, f, g, o = (gates[t] + torch.matmul(h, w_hh.t()) + b_hh).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.matmul(torch.sigmoid(o) * torch.tanh(c), w_hr.t())
        outputs.append(h)
    return torch.stack(outputs), h, c


def scripted_layer(rnn: nn.RNNBase, suffix: str, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one layer and direction of a projected LSTM as a TorchScript loop."""
    b_hh = _weight(rnn, "bias_hh", suffix) if rnn.bias else torch.zeros(1)
    output, *final = _lstm_loop(gates, *state, _weight(rnn, "weight_hh", suffix), b_hh, _weight(rnn, "weight_hr", suffix))
    return output, tuple(final)


def scanned_layer(rnn: nn.RNNBase, suffix: str, gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one layer and direction of any recurrence as a `scan`, which torch.export keeps as one operator for any T."""

    def body(carry: tuple[Tensor, ...], gates_t: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        new = step(rnn, suffix, gates_t, carry)
        return new, new[0].clone()  # a scan may not return one tensor twice

    final, output = scan(body, state, gates)
    return output, tuple(final)


def step(rnn: nn.RNNBase | nn.RNNCellBase, suffix: str, gates_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Compute one time step: the input's share of the gates `[B, gates*H]` and the state `[B, size]` each -> the new state."""
    hidden = torch.matmul(state[0], _weight(rnn, "weight_hh", suffix).t())
    if rnn.bias:
        hidden = hidden + _weight(rnn, "bias_hh", suffix)
    if isinstance(rnn, nn.LSTM | nn.LSTMCell):
        i, f, g, o = _gates(gates_t + hidden, 4, rnn.hidden_size)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (torch.matmul(h, _weight(rnn, "weight_hr", suffix).t()) if getattr(rnn, "proj_size", 0) else h), c
    if isinstance(rnn, nn.GRU | nn.GRUCell):
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (_gates(part, 3, rnn.hidden_size) for part in (gates_t, hidden))
        z = torch.sigmoid(z_x + z_h)
        return ((1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * state[0],)
    relu = (rnn.mode == "RNN_RELU") if isinstance(rnn, nn.RNNBase) else (rnn.nonlinearity == "relu")
    return ((torch.relu if relu else torch.tanh)(gates_t + hidden),)


def cell_step(cell: nn.RNNCellBase, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Compute `cell(x, state)`, x `[B, F]`, in plain operations: the ONNX exporter cannot take cell operators inside a loop."""
    return step(cell, "", _projected_input(cell, "", x), state)


def _gates(together: Tensor, count: int, size: int) -> list[Tensor]:
    """Split `[B, count*H]` into `count` tensors `[B, H]`, by slices: every target takes these, also where a shape is unknown."""
    return [together[:, k * size : (k + 1) * size] for k in range(count)]
