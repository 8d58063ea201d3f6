"""Models in the shape of well-known tutorials and libraries, with the habits that make them hard to lift."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence as pack

from tests.support.model_zoo import F, H, Specimen, series, token_ids


class Seq2Seq(nn.Module):
    """Encoder and decoder of different input sizes; the decoder rolls four steps out of the encoder's state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(F, H, 2, batch_first=True), nn.LSTM(1, H, 2, batch_first=True)
        self.head = nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.encoder(x)
        step, outputs = x[:, -1:, :1], []
        for _ in range(4):
            out, state = self.decoder(step, state)
            step = self.head(out)
            outputs.append(step)
        return torch.cat(outputs, dim=1)


class Sentiment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, H, 2, batch_first=True, dropout=0.5)
        self.fc, self.sigmoid = nn.Linear(H, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(x))
        return self.sigmoid(self.fc(out))[:, -1].squeeze(1)


class StateArgument(nn.Module):
    """forward(x, hidden) -> (logits, hidden), outputs flattened: the shape of many language-model tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.decoder = nn.Embedding(50, 6), nn.LSTM(6, H, 2), nn.Linear(H, 50)

    def forward(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        out, hidden = self.lstm(self.embedding(x), hidden)
        return torch.log_softmax(self.decoder(out).view(-1, 50), dim=1), hidden


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


def states(layers: int, batch: int = 2) -> Any:
    return torch.zeros(layers, batch, H), torch.zeros(layers, batch, H)


STREAMING = {
    "encoder and decoder": Specimen(Seq2Seq, series()),
    "sentiment over tokens": Specimen(Sentiment, token_ids, 50),
    "state as an argument": Specimen(StateArgument, lambda: (torch.randint(50, (12, 2)), (torch.zeros(2, 2, H), torch.zeros(2, 2, H))), 50),
    "sine wave": Specimen(SineWave, lambda: torch.randn(2, 12)),
    "static id": Specimen(WithId, series(lambda: torch.tensor([3, 5]))),
    "nested inputs": Specimen(Nested, lambda: ((torch.randn(2, 12, F), torch.randn(2, 12, 2)), None)),
    "a list of states": Specimen(HiddenOfLayers, lambda: (torch.randint(50, (12, 2)), [states(1), states(1)]), 50),
    "decoder from zero": Specimen(FixedDecoder, series()),
    "subclass of nn.LSTM": Specimen(Subclassed, series()),
    "frames, len, packing": Specimen(Length, lambda: (torch.randn(2, 12, 1, 4, 4), torch.tensor([12, 9]))),
}
