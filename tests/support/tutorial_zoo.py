"""Models in the shape of well-known tutorials and libraries, with the habits that make them hard to lift."""

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence as pack

from tests.support.model_zoo import F, H, LastStep, Specimen, series, token_ids


class SineWave(nn.Module):
    """x is [B, T]: one number a step, two cells, and a `future` that is left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.LSTMCell(1, H), nn.LSTMCell(H, H), nn.Linear(H, 1)

    def forward(self, x: Tensor, future: int = 0) -> Tensor:
        h1 = c1 = h2 = c2 = torch.zeros(x.size(0), H)
        outputs = []
        for x_t in x.split(1, dim=1):
            h1, c1 = self.first(x_t, (h1, c1))
            h2, c2 = self.second(h1, (h2, c2))
            outputs += [self.head(h2)]
        return torch.cat(outputs, dim=1)


class WithId(nn.Module):
    """A static id [B] beside the series: small whole numbers, easily taken for lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.mean, self.scale = (
            nn.Embedding(9, 4),
            nn.LSTM(F + 4, H, 2),
            nn.Linear(2 * H, 1),
            nn.Linear(2 * H, 1),
        )

    def forward(self, x: Tensor, series_id: Tensor) -> tuple[Tensor, Tensor]:
        e = self.embedding(series_id)[:, None].expand(-1, x.size(1), -1)
        _, (h_n, _) = self.lstm(torch.cat([x, e], -1).transpose(0, 1))
        flat = h_n.permute(1, 2, 0).contiguous().view(len(x), -1)
        return torch.squeeze(self.mean(flat)), torch.squeeze(functional.softplus(self.scale(flat)))


class Nested(nn.Module):
    """forward((past, known), h=None): one tuple for an input, as forecasting libraries have it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(F + 2, H, 2, batch_first=True), nn.Linear(H, 4)

    def forward(self, inputs: Any, h: Any = None) -> Any:
        past, known = inputs
        out, state = self.rnn(torch.cat([past, known], -1), h)
        return self.head(out).view(past.shape[0], -1, 2, 2), state


class HiddenOfLayers(nn.Module):
    """forward(x, [(h, c), (h, c)]): a list with one state for each of two dropped-weight LSTMs."""

    class WeightDrop(nn.Module):
        def __init__(self, module: nn.LSTM) -> None:
            super().__init__()
            self.module = module
            weight = module.weight_hh_l0
            del module._parameters["weight_hh_l0"]
            module.register_parameter("weight_hh_l0_raw", nn.Parameter(weight.data))

        def forward(self, *args: Any) -> Any:
            self.module.weight_hh_l0 = functional.dropout(self.module.weight_hh_l0_raw, 0.5, self.training)
            return self.module.forward(*args)

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, H), nn.Linear(H, 50)
        self.rnns = nn.ModuleList([self.WeightDrop(nn.LSTM(H, H)) for _ in range(2)])
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor, hidden: Any) -> Any:
        out, states = self.embedding(x), []
        for rnn, state in zip(self.rnns, hidden, strict=True):
            out, state = rnn(out, state)
            states.append(state)
        return self.head(out.view(out.size(0) * out.size(1), -1)), states


class FixedDecoder(nn.Module):
    """An autoencoder whose decoder begins at zero in every pass, over a horizon of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = nn.LSTM(F, H, batch_first=True), nn.LSTM(H, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, (h_n, _) = self.encoder(x)
        return self.head(self.decoder(h_n[-1][:, None].repeat(1, 5, 1))[0])


class OwnLSTM(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.relu(super().forward(x)[0])


class Subclassed(nn.Module):
    """A subclass of nn.LSTM with another signature."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = OwnLSTM(F, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[:, -1])


class Length(nn.Module):
    """len(x), packing under another name, .tolist(), and a frame a step that is folded into the batch by view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm, self.head = nn.Conv2d(1, 2, 3), nn.LSTM(8, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        frames = self.conv(x.view(len(x) * x.shape[1], 1, 4, 4)).view(len(x), x.shape[1], -1)
        _, (h_n, _) = self.lstm(pack(frames, lengths.tolist(), batch_first=True, enforce_sorted=False))
        return self.head(h_n[-1])


class SelfAttention(LastStep):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(H, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(self.attention(out, out, out)[0][:, -1])


class TinyPooled(LastStep):
    """Its outputs are so small that no tolerance in float32 sees them differ."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].mean(1)) * 1e-7


class SmallBesideLarge(LastStep):
    """A large output that streams beside a small one that does not."""

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return torch.cat([self.head(out[:, -1]) * 1e6, self.head(out.mean(1))], 1)


class Positions(LastStep):
    """A table of 100 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 100, F))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table[:, : x.size(1)])


class LastToken(nn.Module):
    """y at the last token that is not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(50, 6, padding_idx=0), nn.LSTM(6, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        last = (x != 0).sum(1).clamp(min=1) - 1
        return self.head(self.lstm(self.embedding(x))[0][torch.arange(x.size(0)), last])


# These cannot be lifted.


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


def states(layers: int, batch: int = 2) -> Any:
    return torch.zeros(layers, batch, H), torch.zeros(layers, batch, H)


def with_id_column() -> Tensor:
    return torch.cat([torch.full((2, 12, 1), 3.0), torch.randn(2, 12, F - 1)], -1)


STREAMING = {
    "sine wave": Specimen(SineWave, lambda: torch.randn(2, 12)),
    "static id": Specimen(WithId, series(lambda: torch.tensor([3, 5]))),
    "nested inputs": Specimen(Nested, lambda: ((torch.randn(2, 12, F), torch.randn(2, 12, 2)), None)),
    "a list of states": Specimen(HiddenOfLayers, lambda: (torch.randint(50, (12, 2)), [states(1), states(1)]), 50),
    "decoder from zero": Specimen(FixedDecoder, series()),
    "subclass of nn.LSTM": Specimen(Subclassed, series()),
    "frames, len, packing": Specimen(Length, lambda: (torch.randn(2, 12, 1, 4, 4), torch.tensor([12, 9]))),
}
WHOLE = {
    "self-attention": Specimen(SelfAttention, series()),
    "tiny outputs": Specimen(TinyPooled, series()),
    "a small output beside a large one": Specimen(SmallBesideLarge, series()),
    "a table of positions": Specimen(Positions, series()),
    "last token": Specimen(LastToken, token_ids, 50),
}
REFUSED = {
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
