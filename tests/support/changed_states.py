"""Models that change their state between recurrent calls: resets, decays, zoneout, normalisation. Legitimate streams, drawn by options."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.support.model_zoo import F, H

KINDS = ("LSTMCell", "GRUCell", "RNNCell", "LSTM", "GRU")
CHANGES = ("nothing", "reset by a gap", "decay by a gap", "reset by a mask", "zoneout", "layer norm", "scale")
STARTS = ("zeros", "learned", "argument")
RARE = 60.0  # a gap that the example never has


class ChangedState(nn.Module):
    """A loop over time. Column 0 of x is a gap in minutes, within 0 .. 10 in the examples; the state is changed before or after a call."""

    def __init__(self, kind: str, change: str, start: str, after: bool = False, per_step: bool = True) -> None:
        super().__init__()
        self.kind, self.change, self.start, self.after, self.per_step = kind, change, start, after, per_step
        layers = getattr(nn, kind)
        self.cell = layers(F, H) if kind.endswith("Cell") else layers(F, H, batch_first=True)
        self.norm, self.head = nn.LayerNorm(H), nn.Linear(H, 2)
        self.h0 = nn.Parameter(torch.randn(H).tanh())
        self.rate = nn.Parameter(torch.tensor(0.05))

    @property
    def parts(self) -> int:
        return 2 if "LSTM" in self.kind else 1

    def initial(self, x: Tensor) -> list[Tensor]:
        shape = (x.size(0), H) if self.kind.endswith("Cell") else (1, x.size(0), H)
        if self.start == "learned":
            return [self.h0.expand(*shape).contiguous() for _ in range(self.parts)]
        return [torch.zeros(*shape) for _ in range(self.parts)]

    def changed(self, part: Tensor, before: Tensor, x_t: Tensor) -> Tensor:
        gap = x_t[:, :1]
        if self.change == "reset by a gap":
            return part * (gap < RARE)
        if self.change == "decay by a gap":
            return part * torch.exp(-self.rate.abs() * gap.abs())
        if self.change == "reset by a mask":
            return torch.where(gap > RARE, torch.zeros_like(part), part)
        if self.change == "zoneout":
            return 0.3 * before + 0.7 * part
        if self.change == "layer norm":
            return self.norm(part)
        return part * 0.9 if self.change == "scale" else part

    def advance(self, x_t: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        given = state[0] if self.parts == 1 else tuple(state)
        if self.kind.endswith("Cell"):
            new = self.cell(x_t, given)
            new = [new] if self.parts == 1 else list(new)
            return new[0], new
        out, new = self.cell(x_t[:, None], given)
        return out[:, 0], [new] if self.parts == 1 else list(new)

    def forward(self, x: Tensor, *given: Tensor) -> Any:
        state = list(given) if given else self.initial(x)
        outputs = []
        for t in range(x.size(1)):
            x_t = x[:, t]
            if not self.after:
                state = [self.changed(part, part, x_t) for part in state]
            out, new = self.advance(x_t, state)
            if self.after:
                new = [self.changed(part, before, x_t) for part, before in zip(new, state, strict=True)]
            state = new
            outputs.append(self.head(out))
        y = torch.stack(outputs, 1) if self.per_step else outputs[-1]
        return (y, tuple(state)) if given else y

    def example(self) -> Any:
        x = torch.cat([torch.rand(2, 12, 1) * 10, torch.randn(2, 12, F - 1)], -1)
        if self.start != "argument":
            return x
        return (x, *self.initial(x))


class WholeSequence(nn.Module):
    """One nn.LSTM over the sequence, from states that are arguments and that the model resets before the call."""

    def __init__(self, stacked: bool = False, returned: bool = True) -> None:
        super().__init__()
        self.stacked, self.returned = stacked, returned
        self.lstm, self.head = nn.LSTM(F, H, 2, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        keep = (x[:, 0, 0] < RARE).float()[None, :, None]
        out, (h_n, c_n) = self.lstm(x, (keep * h, keep * c))
        y = self.head(out[:, -1])
        return (y, h_n, c_n) if self.returned else y

    def example(self) -> Any:
        return torch.randn(2, 12, F), torch.zeros(2, 2, H), torch.zeros(2, 2, H)
