"""Models that cannot be lifted: each is refused with its place, the reason and a remedy."""

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.support.model_zoo import F, H, LastStep, Specimen, series


class Branches(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        if out.mean() > 0:
            return self.head(out[:, -1])
        return -self.head(out[:, -1])


class RandomStart(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.randn(2, x.size(0), H)
        out, _ = self.lstm(x, (h0, torch.zeros_like(h0)))
        return self.head(out[:, -1])


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class CustomAutograd(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(Double.apply(out[:, -1]))


class FromStatic(nn.Module):
    """Begins with a state made from the static inputs: one example's must not be frozen in."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.lstm, self.head = nn.Linear(4, H), nn.LSTM(F, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor, static: Tensor) -> Tensor:
        h = self.begin(static)[None]
        return self.head(self.lstm(x, (h, h))[0][:, -1])


class FromColumn(nn.Module):
    """The same from an id that rides in x."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.lstm, self.head = nn.Embedding(5, H), nn.LSTM(F, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.begin(x[:, 0, 0].long())[None]
        return self.head(self.lstm(x, (h, h))[0][:, -1])


class RowsMeet(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(super().forward(x), dim=0)


class Remembers(LastStep):
    """Keeps the last input for the next call."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        before = torch.zeros_like(x[:, -1]) if self.kept is None else self.kept
        self.kept = x[:, -1]
        return super().forward(x) + before.mean(1, keepdim=True)


class Coin(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if random.random() < 0.5 else -super().forward(x)


class NoisyDropout(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(super().forward(x), 0.2)


class ForgotBatchFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(F, H), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1, :])


class Tagger(nn.Module):
    """No batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 6), nn.LSTM(6, H), nn.Linear(H, 3)

    def forward(self, sentence: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(sentence).view(len(sentence), 1, -1))
        return self.head(out.view(len(sentence), -1))


class CellsAndAttention(nn.Module):
    """A loop over a cell, then a look back at all of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(F, H), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.size(0), H)
        steps = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            steps.append(h)
        return self.head(torch.stack(steps, 1).amax(1))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = torch.jit.script(nn.LSTM(F, H, batch_first=True)), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TakenFromData(LastStep):
    """int(x.shape[0]): a number that a tracer takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].reshape(int(x.shape[0]), -1, H)[:, -1])


class ListOfSteps(LastStep):
    def forward(self, x: Tensor) -> Any:
        return list(self.head(self.lstm(x)[0]).unbind(1))


class EverySecondStep(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, ::2])


class GivenToNumpy(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.as_tensor(x.numpy().clip(-1, 1)))


class FromTheSecondStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(F, H), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), H)
        for t in range(1, x.size(1)):
            h = self.cell(x[:, t] - x[:, t - 1], h)
        return self.head(h)


class Nodes(LastStep):
    """Five nodes a row, each with a state of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2).flatten(0, 1)).reshape(x.size(0), -1)


class ForgetsOneStep(FromTheSecondStep):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), H)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h * (t != 700))
        return self.head(h)


class SevenAtATime(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.lstm(chunk)[0] for chunk in x.split(7, 1)], 1))


def with_id_column() -> Tensor:
    return torch.cat([torch.full((2, 12, 1), 3.0), torch.randn(2, 12, F - 1)], -1)


REFUSED = {
    "a list of steps": Specimen(ListOfSteps, series()),
    "every second step": Specimen(EverySecondStep, series()),
    "NumPy": Specimen(GivenToNumpy, series()),
    "nothing at the first step": Specimen(FromTheSecondStep, series()),
    "several rows for one": Specimen(Nodes, lambda: torch.randn(2, 12, 5, F)),
    "a row without a number": Specimen(LastStep, lambda: torch.full((2, 12, F), torch.nan)),
    "a bool among tensors": Specimen(ForgetsOneStep, series()),
    "called for every seven steps": Specimen(SevenAtATime, series()),
    "branches on values": Specimen(Branches, series()),
    "random initial state": Specimen(RandomStart, series()),
    "custom autograd": Specimen(CustomAutograd, series()),
    "no recurrence": Specimen(lambda: nn.Linear(F, 2), series()),
    "state from static input": Specimen(FromStatic, series(lambda: torch.randn(2, 4))),
    "state from an id column": Specimen(FromColumn, with_id_column),
    "rows meet": Specimen(RowsMeet, series()),
    "remembers its input": Specimen(Remembers, series()),
    "a coin": Specimen(Coin, series()),
    "dropout that is never off": Specimen(NoisyDropout, series()),
    "batch_first forgotten": Specimen(ForgotBatchFirst, series()),
    "no batch axis": Specimen(Tagger, lambda: torch.randint(20, (9,))),
    "cells and a look back": Specimen(CellsAndAttention, series()),
    "scripted LSTM": Specimen(Scripted, series()),
    "float64": Specimen(lambda: LastStep().double(), lambda: torch.randn(2, 12, F).double()),
    "a size taken out": Specimen(TakenFromData, series()),
}
