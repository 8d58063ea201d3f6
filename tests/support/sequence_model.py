"""The model that Triton's example of sequences expects: y is x, and one more at the first step of a stream.

Its tensors have the names that the example sends. The LSTM counts steps and reads nothing: c grows by 0.5 a step, h is tanh(c).
"""

import math

import torch
from torch import Tensor, nn

from tests.support.served_models import Model

OPEN, HALF = 30.0, math.atanh(0.5)  # biases of a gate that lets everything through, and of a candidate of 0.5
FIRST = 0.6  # between tanh(0.5) and tanh(1.0)


class SequenceModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x)
        return x[:, -1] + (output[:, -1] < FIRST).to(x.dtype)


def sequence_model() -> Model:
    """The model, with the weights that make it count."""
    card = {
        "name": "simple_sequence", "version": "1.0", "task": "regress", "features": ["value"], "outputs": ["value"],
        "tensors": {"x": "INPUT", "y": "OUTPUT"}, "factory": f"{__file__}:SequenceModel",
    }  # fmt: skip
    module = SequenceModel().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.lstm.bias_ih_l0.copy_(torch.tensor([OPEN, OPEN, HALF, OPEN]))  # i, f, g, o
    return Model(card, module)
