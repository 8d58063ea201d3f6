"""An LSTM with projection as a loop over its cells, for ONNX alone: the standard's LSTM operator has no projection.

The cell follows the documentation of `torch.nn.LSTM`; gates are stored in the order i, f, g, o. The loop is scripted, so the number of
steps stays dynamic in the graph.
"""

import torch
from torch import Tensor, nn


@torch.jit.script
def _direction(gates_x: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, w_hr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """gates_x [T, B, 4*H], h [B, P], c [B, H] -> output [T, B, P], h, c"""
    outputs: list[Tensor] = []
    for t in range(gates_x.size(0)):
        i, f, g, o = (gates_x[t] + torch.matmul(h, w_hh.t())).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.matmul(torch.sigmoid(o) * torch.tanh(c), w_hr.t())
        outputs.append(h)
    return torch.stack(outputs), h, c


def lstm_as_loop(lstm: nn.LSTM, x: Tensor, initial: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What `lstm(x, initial)` gives, for an LSTM with `proj_size`, in evaluation mode."""
    x = x.transpose(0, 1) if lstm.batch_first else x  # [T, B, F]
    directions = 2 if lstm.bidirectional else 1
    finals: list[tuple[Tensor, Tensor]] = []
    for layer in range(lstm.num_layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            output, *final = _one(lstm, layer, bool(direction), x, initial[0][k], initial[1][k])
            outputs.append(output)
            finals.append((final[0], final[1]))
        x = torch.cat(outputs, -1)  # [T, B, D*P]
    h_n, c_n = (torch.stack(part) for part in zip(*finals, strict=True))
    return x.transpose(0, 1) if lstm.batch_first else x, (h_n, c_n)


def _one(lstm: nn.LSTM, layer: int, backward: bool, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    suffix = f"_l{layer}_reverse" if backward else f"_l{layer}"
    w_ih, w_hh, w_hr = (getattr(lstm, f"weight_{part}{suffix}") for part in ("ih", "hh", "hr"))
    gates_x = torch.matmul(x.flip(0) if backward else x, w_ih.t())  # [T, B, 4*H]
    if lstm.bias:
        gates_x = gates_x + getattr(lstm, f"bias_ih{suffix}") + getattr(lstm, f"bias_hh{suffix}")
    output, h, c = _direction(gates_x, h, c, w_hh, w_hr)
    return output.flip(0) if backward else output, h, c
