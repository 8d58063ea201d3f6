"""Models that take the lengths of padded rows, exported with an example of rows of different lengths: in the service every step counts."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from export.lift.lifted import lift
from export.packaging.model_spec import ModelSpec
from export.writers import torch_export
from tests.conftest import answer, ask, assert_close, left_out
from tests.contract.test_lifted_models import served_by_all

F, H, STEPS = 3, 8, 12
LENGTHS = torch.tensor([12, 9, 1])


class Gathers(nn.Module):
    """Takes the output at each row's last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(F, H, batch_first=True), nn.Linear(H, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out[torch.arange(x.size(0)), lengths - 1])


class Masks(Gathers):
    """Takes the mean of the outputs at each row's steps."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        counts = (torch.arange(x.size(1))[None] < lengths[:, None]).float()[..., None]
        return self.head((self.lstm(x)[0] * counts).sum(1) / lengths[:, None])


class Packs(Gathers):
    """Packs its rows."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        _, (h_n, _) = self.lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return self.head(h_n[-1])


class TimeFirst(Gathers):
    """Has time in the first axis of x."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1), lengths)


class LooksAtTheFirstStep(Gathers):
    """Takes an id of each row, and ignores the later steps whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, H)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, 0] + self.embedding(ids))


class TakesFewIds(LooksAtTheFirstStep):
    """Has no row for an id of 12."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(STEPS, H)


def made(kind: type[nn.Module], lengths: Tensor = LENGTHS) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A model, and an example of padded rows."""
    torch.manual_seed(2)
    x = torch.randn(len(lengths), STEPS, F)
    return kind().eval(), (x.transpose(0, 1).contiguous() if kind is TimeFirst else x, lengths)


@pytest.mark.parametrize(
    ("kind", "role"),
    [(Gathers, "lengths"), (Masks, "lengths"), (Packs, "lengths"), (LooksAtTheFirstStep, "static"), (TakesFewIds, "static")],
)
def test_lengths_are_told_from_ids(kind, role):
    model, (x, lengths) = made(kind, torch.tensor([3, 9, 1]))
    assert [leaf.role for leaf in lift(model, (x, lengths)).arguments.leaves] == ["x", role]


@pytest.mark.parametrize("kind", [Gathers, Masks, Packs, TimeFirst])
def test_rows_are_answered_as_the_unmodified_model_answers_them_padded(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_export, "write_program", left_out)
    model, (x, lengths) = made(kind)
    signature, services = served_by_all(
        model, ModelSpec(name="padded", version="1.0", factory="m.py:m", task="regress"), (x, lengths), tmp_path
    )
    expected = model(x, lengths).detach().numpy()
    rows = [row[:length].tolist() for row, length in zip(x.transpose(0, 1) if kind is TimeFirst else x, lengths, strict=True)]
    assert len(signature.features) == F
    assert signature.streaming == (kind is not Masks)
    for name, service in services.items():
        for (status, reply), y in zip(ask(service, *({"inputs": row} for row in rows)), expected, strict=True):
            assert status == 200, reply
            assert_close(reply["prediction"], y, f"{kind.__name__}, {name}, in one batch")
        for step in range(len(rows[1]) if signature.streaming else 0):
            reply = answer(service, {"inputs": rows[1][step : step + 1], "session": {"id": "s", "step": step}})
        if signature.streaming:
            assert_close(np.array(reply["prediction"]), expected[1], f"{kind.__name__}, {name}, step by step")
