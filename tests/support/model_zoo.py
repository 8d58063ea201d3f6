"""Models as people write them, none of them for this project: what the lift must understand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

F, H = 3, 8


class LastStep(nn.Module):
    """The commonest of all: a head on the top layer's last step."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        options = {"batch_first": True, "num_layers": 2} | options
        self.lstm = nn.LSTM(F, H, **options)
        width = (options.get("proj_size") or H) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out[:, -1, :])


class EveryStep(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out)


class TimeFirst(nn.Module):
    """[T, B, F] in, [T, B, O] out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(F, H, 2)
        self.head = nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class TimeFirstLast(TimeFirst):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][-1])


class ExplicitZeros(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = 2, H
        self.lstm = nn.LSTM(F, H, 2, batch_first=True)
        self.fc = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(x.device)
        c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(x.device)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :]).squeeze()


class LearnedStart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h0, self.c0 = nn.Parameter(torch.randn(2, 1, H)), nn.Parameter(torch.randn(2, 1, H))
        self.lstm = nn.LSTM(F, H, 2, batch_first=True)
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        _, (h_n, _) = self.lstm(x, (self.h0.expand(-1, n, -1).contiguous(), self.c0.expand(-1, n, -1).contiguous()))
        return self.head(h_n[-1])


class MixedLayers(nn.Module):
    """A head that reads all layers of h_n and c_n."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(F, H, 3, batch_first=True)
        self.head = nn.Linear(6 * H, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, (h_n, c_n) = self.lstm(x)
        return self.head(torch.cat([*h_n, *c_n], dim=1))


class Extract(nn.Module):
    def forward(self, result: tuple[Tensor, Any]) -> Tensor:
        return result[0][:, -1]


def sequential() -> nn.Module:
    return nn.Sequential(nn.LSTM(F, H, batch_first=True), Extract(), nn.ReLU(), nn.Linear(H, 2))


class Stack(nn.Module):
    """Several LSTMs, layers and a residual between them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.LSTM(F, H, batch_first=True), nn.LSTM(H, H, batch_first=True), nn.LSTM(H, 5, batch_first=True)])
        self.norm, self.mid, self.drop, self.head = nn.LayerNorm(H), nn.Linear(H, H), nn.Dropout(0.3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, _ = self.inner[0](x)
        a = self.drop(torch.relu(self.mid(self.norm(a)))) + a
        b, _ = self.inner[1](a)
        c, _ = self.inner[2](a + b)
        return self.head(c[:, -1])


class Twice(nn.Module):
    """The same LSTM called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(F, H), nn.LSTM(H, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, _ = self.lstm(self.embed(x))
        second, _ = self.lstm(first)
        return self.head(second[:, -1])


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(F, H, 2, batch_first=True), nn.Linear(2 * H, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, (h_n, _) = self.lstm(packed)
        padded, sizes = pad_packed_sequence(out, batch_first=True)
        last = padded[torch.arange(x.size(0)), sizes - 1]
        return self.head(torch.cat([last, h_n[-1]], dim=1))


class Covariates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.static, self.head = nn.LSTM(F, H, batch_first=True), nn.Linear(4, H), nn.Linear(2 * H, 1)

    def forward(self, x: Tensor, static: Tensor) -> Tensor:
        _, (h_n, _) = self.lstm(x)
        return self.head(torch.cat([h_n[-1], torch.relu(self.static(static))], dim=1))


class MeanAndScale(nn.Module):
    """Two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.mean, self.scale = nn.LSTM(F, H, batch_first=True), nn.Linear(H, 1), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out, _ = self.lstm(x)
        return {"mean": self.mean(out), "scale": nn.functional.softplus(self.scale(out))}


class CellLoop(nn.Module):
    """Two cells in a loop over time, zeros built inside: the shape of the sine-wave tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.LSTMCell(F, H), nn.LSTMCell(H, H), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h1, c1 = torch.zeros(x.size(0), H), torch.zeros(x.size(0), H)
        h2, c2 = torch.zeros(x.size(0), H), torch.zeros(x.size(0), H)
        outputs = []
        for x_t in x.split(1, dim=1):
            h1, c1 = self.first(x_t[:, 0], (h1, c1))
            h2, c2 = self.second(h1, (h2, c2))
            outputs.append(self.head(h2))
        return torch.stack(outputs, dim=1)


class LoopOverLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(F, H, 2, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            out, state = self.lstm(x[:, t : t + 1], state)
        return self.head(out[:, -1])


class KeepsHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head, self.hidden = nn.LSTM(F, H, batch_first=True), nn.Linear(H, 1), None

    def forward(self, x: Tensor) -> Tensor:
        out, self.hidden = self.lstm(x, self.hidden)
        self.hidden = tuple(part.detach() for part in self.hidden)
        return self.head(out[:, -1])


class Gru(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.GRU, **options: Any) -> None:
        super().__init__()
        self.rnn, self.head = kind(F, H, 2, batch_first=True, **options), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, h_n = self.rnn(x)
        return self.head(h_n[-1]) + self.head(out[:, -1])


class GruCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(F, H), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], H)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


class ReturnsState(LastStep):
    """Hands out its LSTM's own results beside the prediction."""

    def forward(self, x: Tensor) -> Any:
        out, (h_n, c_n) = self.lstm(x)
        return self.head(out[:, -1]), (h_n, c_n)


@dataclass(frozen=True)
class Specimen:
    """A factory, and what its forward takes."""

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    tokens: int = 0


def series(*more: Any, steps: int = 12) -> Callable[[], Any]:
    return lambda: (torch.randn(2, steps, F), *(value() for value in more))


def token_ids() -> Tensor:
    return torch.randint(1, 50, (2, 12))


STREAMING = {
    "last step": Specimen(LastStep, series()),
    "every step": Specimen(EveryStep, series()),
    "one layer": Specimen(lambda: LastStep(num_layers=1), series()),
    "four layers, no bias": Specimen(lambda: LastStep(num_layers=4, bias=False), series()),
    "projection": Specimen(lambda: LastStep(proj_size=5), series()),
    "projection, no bias": Specimen(lambda: LastStep(proj_size=5, bias=False), series()),
    "dropout between layers": Specimen(lambda: LastStep(dropout=0.5), series()),
    "time first, every step": Specimen(TimeFirst, lambda: torch.randn(12, 2, F)),
    "time first, last step": Specimen(TimeFirstLast, lambda: torch.randn(12, 2, F)),
    "explicit zeros, squeezed": Specimen(ExplicitZeros, series()),
    "learned initial state": Specimen(LearnedStart, series()),
    "mixed layers of h and c": Specimen(MixedLayers, series()),
    "sequential": Specimen(sequential, series()),
    "several LSTMs": Specimen(Stack, series()),
    "the same LSTM twice": Specimen(Twice, series()),
    "packed sequences": Specimen(Packed, series(lambda: torch.tensor([12, 12]))),
    "static covariates": Specimen(Covariates, series(lambda: torch.randn(2, 4))),
    "mean and scale": Specimen(MeanAndScale, series()),
    "two cells in a loop": Specimen(CellLoop, series()),
    "an LSTM in a loop": Specimen(LoopOverLSTM, series()),
    "keeps self.hidden": Specimen(KeepsHidden, series()),
    "GRU": Specimen(Gru, series()),
    "RNN": Specimen(lambda: Gru(nn.RNN, nonlinearity="relu"), series()),
    "GRU cell": Specimen(GruCell, series()),
    "returns its state": Specimen(ReturnsState, series()),
}
