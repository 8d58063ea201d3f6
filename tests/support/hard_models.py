"""Models that are easily exported wrongly: each must be right in the service, or be refused with a message that is true."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from tests.support.model_zoo import F, H, LastStep

PAD = 1  # a padding id that is not 0 and that no example holds


class LagAsConvolution(LastStep):
    """y reads the input of 672 steps ago, and zeros before."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + nn.functional.pad(x, (0, 0, 672, 0))[:, x.size(1) - 1, :2]


class LagBehindAnIf(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + x[:, -673, :2] if x.size(1) > 672 else y


class OtherWhenLong(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return -y if x.size(1) > 100 else y


class ResetsEvery96(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(F, H), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), H)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h * 0 if t % 96 == 0 else h)
        return self.head(h)


class CountsPadding(nn.Module):
    """Lengths counted from x: by packing, or by gathering the last step."""

    def __init__(self, packs: bool) -> None:
        super().__init__()
        self.packs = packs
        self.embedding, self.lstm, self.head = nn.Embedding(50, 6, padding_idx=PAD), nn.LSTM(6, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        lengths, embedded = (x != PAD).sum(1).clamp(min=1), self.embedding(x)
        if self.packs:
            _, (h_n, _) = self.lstm(pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False))
            return self.head(h_n[-1])
        return self.head(self.lstm(embedded)[0][torch.arange(x.size(0)), lengths - 1])


class RarelyAnswers(LastStep):
    """A pooled alarm that no input like the example's raises: cutting cannot be measured on it."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.lstm(x)[0].mean(1).abs().amax(1, keepdim=True) > 1e9).float()


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(20, 4), nn.LSTM(F + 4, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.head(self.lstm(torch.cat([x, self.embedding(ids)], -1))[0][:, -1])


class Weekday(LastStep):
    def forward(self, x: Tensor, seconds: Tensor) -> Tensor:
        return super().forward(x) + (seconds // 86_400 % 7).float()[:, -1:]


class LastTwelve(LastStep):
    """Answers 12 values, and fewer of them for fewer steps."""

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -12:, 0]


class Positions(LastStep):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 1000, F))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table[:, : x.size(1)])


class Roots(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.sqrt(x) / 100)


class Channels(nn.Module):
    """Takes [B, C, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.lstm, self.head = nn.Conv1d(F, H, 1), nn.LSTM(H, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.mix(x).transpose(1, 2))[0][:, -1])


class StaticFirst(LastStep):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return super().forward(inputs["series"]) + inputs["static"].sum(1, keepdim=True)


class KeywordOnly(LastStep):
    def forward(self, *, x: Tensor, weight: Tensor) -> Tensor:
        return super().forward(x * weight[:, :, None])


class NewHiddenForOtherBatches(LastStep):
    hidden: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden is None or self.hidden[0].size(1) != x.size(0):
            self.hidden = (torch.zeros(2, x.size(0), H), torch.zeros(2, x.size(0), H))
        out, self.hidden = self.lstm(x, self.hidden)
        return self.head(out[:, -1])


class DecaysWhatItKeeps(LastStep):
    """Changes its kept state between two calls."""

    hidden: Any = None

    def forward(self, x: Tensor) -> Tensor:
        out, hidden = self.lstm(x, self.hidden)
        self.hidden = tuple(part * 0.5 for part in hidden)
        return self.head(out[:, -1])


class LastFour(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        out = self.lstm(x)[0][:, -4:]
        return self.head((out * torch.softmax(out.sum(-1), 1)[..., None]).sum(1))


class Differences(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], 1))


class WithAttention(LastStep):
    def forward(self, x: Tensor) -> Any:
        out = self.lstm(x)[0]
        weights = torch.softmax(out @ out.transpose(1, 2), -1)
        return self.head((weights @ out)[:, -1]), weights


@dataclass
class Answer:
    y: Tensor
    features: Tensor


class AnswersDataclass(LastStep):
    def forward(self, x: Tensor) -> Any:
        out = self.lstm(x)[0]
        return Answer(self.head(out[:, -1]), out[:, 1:] - out[:, :-1])


class LeftFromTraining(LastStep):
    def __init__(self) -> None:
        super().__init__()
        self.hidden: Any = (torch.rand(2, 2, H), torch.rand(2, 2, H))

    def forward(self, x: Tensor) -> Tensor:
        out, self.hidden = self.lstm(x, self.hidden)
        return self.head(out[:, -1])


class NotANumber(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.log(-x.abs())[:, -1, :2]


class BatchFirstState(LastStep):
    """Takes and returns [B, L, 2 H]: h and c beside each other."""

    def forward(self, x: Tensor, state: Tensor) -> Any:
        h, c = state.transpose(0, 1).chunk(2, -1)
        out, state = self.lstm(x, (h.contiguous(), c.contiguous()))
        return self.head(out[:, -1]), torch.cat(state, -1).transpose(0, 1)


class StackedState(LastStep):
    def forward(self, x: Tensor, state: Tensor) -> Any:
        out, (h, c) = self.lstm(x, (state[0], state[1]))
        return self.head(out[:, -1]), torch.stack([h, c])


class CutToTen(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, -10:])


class RareIds(LastStep):
    """One row of its table stands for all ids from 24 on."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(25, F)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.embedding(torch.where(x > 24, 24, x)))


class OnAnExactNumber(LastStep):
    """Looks at the whole window where the last number is one that no example holds."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.where(x[:, -1, :1] == 5.0, x.mean(1)[:, :2], y)


class PositionOfT(LastStep):
    """ONNX's form of linspace freezes T; TorchScript's does not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.linspace(0, 1, x.size(1))[None, :, None])


class NothingButPadding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(50, 6), nn.LSTM(6, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.lstm(self.embedding(x))[0]
        weights = out.sum(-1).masked_fill(x == 0, float("-inf")).softmax(1)
        return self.head((weights[..., None] * out).sum(1))


@dataclass(frozen=True)
class Hard:
    """A model, its example, and what must become of it: "streams", "whole", or the message of the refusal."""

    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    fate: str
    tokens: int = 0


def window() -> Any:
    return torch.randn(2, 12, F)


def words() -> Any:
    return torch.randint(2, 50, (2, 12))


HARD = {
    "a lag of 672 steps": Hard(LagAsConvolution, window, "whole"),
    "a lag behind an if": Hard(LagBehindAnIf, window, "at this length"),
    "another model when long": Hard(OtherWhenLong, window, "at this length"),
    "a reset every 96 steps": Hard(ResetsEvery96, window, "at this length"),
    "lengths counted and packed": Hard(lambda: CountsPadding(True), words, "make lengths an argument", 50),
    "lengths counted and gathered": Hard(lambda: CountsPadding(False), words, "whole", 50),
    "a vocabulary beyond the embedding": Hard(lambda: CountsPadding(False), words, "embedding has 50 rows", 60),
    "a y that never changes": Hard(RarelyAnswers, window, "whole"),
    "ids beside x": Hard(Ids, lambda: (window(), torch.randint(20, (2, 12))), "streams"),
    "seconds since 1970": Hard(Weekday, lambda: (window(), torch.arange(1_700_000_000, 1_700_000_024).reshape(2, 12)), r"beyond 2\^24"),
    "the last twelve steps": Hard(LastTwelve, lambda: torch.randn(2, 24, F), "whole"),
    "a table of 1,000 positions": Hard(Positions, window, "whole"),
    "roots of volumes": Hard(Roots, lambda: torch.rand(2, 12, F) * 5000, "streams"),
    "channels before time": Hard(Channels, lambda: torch.randn(2, F, 12), "streams"),
    "a static input first": Hard(StaticFirst, lambda: ({"static": torch.randn(2, 4), "series": window()},), "streams"),
    "keywords only": Hard(KeywordOnly, lambda: {"x": window(), "weight": torch.rand(2, 12)}, "streams"),
    "new hidden for other batches": Hard(NewHiddenForOtherBatches, window, "streams"),
    "decays what it keeps": Hard(DecaysWhatItKeeps, window, "neither the initial nor the last state"),
    "attention over the last four": Hard(LastFour, window, "whole"),
    "first differences": Hard(Differences, window, "whole"),
    "weights of an attention beside y": Hard(WithAttention, window, "whole"),
    "a dataclass": Hard(AnswersDataclass, window, "streams"),
    "hidden left from training": Hard(LeftFromTraining, window, "set them to None"),
    "a state with the batch first": Hard(BatchFirstState, lambda: (torch.randn(3, 12, F), torch.zeros(3, 2, 2 * H)), "streams"),
    "h and c in one tensor": Hard(StackedState, lambda: (window(), torch.zeros(2, 2, 2, H)), "streams"),
    "cut to ten steps": Hard(CutToTen, window, "whole"),
    "ids beyond the table": Hard(RareIds, lambda: torch.randint(20, (2, 12)), "streams", 40),
    "an exact number": Hard(OnAnExactNumber, window, "whole"),
    "a form that ONNX freezes": Hard(PositionOfT, window, "whole"),
    "nothing but padding": Hard(NothingButPadding, words, "whole", 50),
    "not a number": Hard(NotANumber, window, "not a finite number"),
}
