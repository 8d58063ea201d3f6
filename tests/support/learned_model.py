"""A model that begins a stream with a state it has learned: a start from zeros would be another model."""

import torch
from torch import Tensor, nn


class Learned(nn.Module):
    """One LSTM layer; `h_0` and `c_0` are parameters. x `[B, T, 3]` -> y `[B, 1]`."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.h_0, self.c_0 = (nn.Parameter(torch.randn(1, 1, hidden_size).tanh()) for _ in "hc")
        self.lstm = nn.LSTM(3, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        initial = tuple(part.expand(-1, len(x), -1).contiguous() for part in (self.h_0, self.c_0))
        output, _ = self.lstm(x, initial)
        y: Tensor = self.head(output[:, -1])
        return y
