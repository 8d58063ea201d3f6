"""The project's own model classes: ordinary PyTorch modules that know nothing of serving.

Both take a whole window and return a prediction; neither mentions `h_0` or `c_0`. `export.lift` makes the state explicit.
Normalisation is part of the module, so clients send and receive their own units.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Forecaster(nn.Module):
    """LSTM with a linear head over numeric features.

    `forward`: x `[B, T, F]` in the data's units -> y `[B, O]` from the last step (`per="sequence"`), or `[B, T, O]` (`per="step"`),
    in the data's units. `mean` and `std` hold one value for each of the F features; `outputs` names, for each of the O outputs,
    the index of the feature whose units it has.
    """

    mean: Tensor
    std: Tensor
    output_mean: Tensor
    output_std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        outputs: Sequence[int] = (0,),
        hidden_size: int = 64,
        num_layers: int = 2,
        bidirectional: bool = False,
        proj_size: int = 0,
        dropout: float = 0.0,
        per: str = "sequence",
    ) -> None:
        super().__init__()
        if per not in ("sequence", "step"):
            raise ValueError(f'per: expected "sequence" or "step", got {per!r}')
        self.per = per
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))  # [F]
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))  # [F]
        self.register_buffer("output_mean", self.mean[list(outputs)])  # [O]
        self.register_buffer("output_std", self.std[list(outputs)])  # [O]
        self.lstm = nn.LSTM(
            len(mean), hidden_size, num_layers, batch_first=True, bidirectional=bidirectional, proj_size=proj_size, dropout=dropout
        )
        width = (proj_size or hidden_size) * (2 if bidirectional else 1)  # D*P
        self.head = nn.Linear(width, len(outputs))

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm((x - self.mean) / self.std)  # [B, T, D*P]
        if self.per == "sequence":
            output = output[:, -1]  # [B, D*P]
        y: Tensor = self.head(output) * self.output_std + self.output_mean
        return y


class TokenClassifier(nn.Module):
    """Embedding -> LSTM -> linear on `h_n[-1]`, for sequences of token ids.

    `forward`: x `[B, T]` int64 ids in `0 .. vocabulary-1` -> y `[B, classes]`, log-probabilities.
    """

    def __init__(self, vocabulary: int, classes: int, embedding_size: int = 16, hidden_size: int = 32, num_layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.lstm = nn.LSTM(embedding_size, hidden_size, num_layers, batch_first=True)
        self.head = nn.Linear(hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        _, (h_n, _) = self.lstm(self.embedding(x))  # h_n [L, B, H]
        return torch.log_softmax(self.head(h_n[-1]), dim=-1)
