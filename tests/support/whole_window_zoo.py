"""Models that can be lifted and must not stream: each needs its whole window."""

import torch
from torch import Tensor, nn

from tests.support.model_zoo import F, H, LastStep, Specimen, series, token_ids


class Pooled(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out.mean(dim=1))


class Attention(LastStep):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, _ = self.lstm(x)
        weights = torch.softmax(out.sum(-1), dim=1)
        return self.head((out * weights[..., None]).sum(1)), weights


class Flattened(nn.Module):
    def __init__(self, steps: int = 12) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(F, H, batch_first=True), nn.Linear(H * steps, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out.reshape(x.size(0), -1))


class ConvFront(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm, self.head = nn.Conv1d(F, H, 3, padding=1), nn.LSTM(H, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        return self.head(out[:, -1])


class Flipped(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x.flip(1))
        return self.head(out[:, -1])


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


WHOLE = {
    "bidirectional": Specimen(lambda: LastStep(bidirectional=True), series()),
    "bidirectional projection": Specimen(lambda: LastStep(bidirectional=True, proj_size=5), series()),
    "mean over time": Specimen(Pooled, series()),
    "attention": Specimen(Attention, series()),
    "flattened window": Specimen(Flattened, series()),
    "convolution over time": Specimen(ConvFront, series()),
    "flipped": Specimen(Flipped, series()),
    "self-attention": Specimen(SelfAttention, series()),
    "tiny outputs": Specimen(TinyPooled, series()),
    "a small output beside a large one": Specimen(SmallBesideLarge, series()),
    "a table of positions": Specimen(Positions, series()),
    "last token": Specimen(LastToken, token_ids, 50),
}
