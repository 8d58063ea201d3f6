"""The memory of a model, as the exporter measures it: against the unmodified model, and at its ends."""

import math

import numpy as np
import orjson
import pytest
import torch
from torch import nn

from export import __main__ as command
from export.difference import difference
from export.lift.lifted import lift
from export.report import TOLERANCE
from export.verify import memory
from export.verify.runners import eager_runner
from tests.export.test_command import arguments, place

__all__ = ["place"]


class Net(nn.Module):
    def __init__(self, forget_bias: float = 0.0) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 6, batch_first=True), nn.Linear(6, 1)
        self.lstm.bias_hh_l0.data[6:12] += forget_bias

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def lifted(model):
    return lift(model.eval(), torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(2)))


@pytest.fixture
def net():
    torch.manual_seed(5)
    return Net()


def test_after_that_many_inputs_the_unmodified_model_is_where_the_whole_stream_is(net):
    measured = memory.measure(lifted(net), eager_runner(lifted(net)))
    steps, x = measured["steps"], torch.randn(8, 400, 2, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        for stop in (steps, steps + 1, 150, 400):
            rebuilt = difference(net(x[:, stop - steps : stop]), net(x[:, :stop]))
            assert rebuilt <= TOLERANCE, (steps, stop, rebuilt)
        assert difference(net(x[:, -(steps // 4) :]), net(x)) > TOLERANCE, "a quarter of it is too few: the measure is no empty promise"


def test_fewer_inputs_agree_the_less_the_fewer_they_are(net):
    measured = memory.measure(lifted(net), eager_runner(lifted(net)))
    steps, values = zip(*measured["agreement"], strict=True)
    assert steps == tuple(sorted(steps))
    assert steps[-1] == measured["steps"]
    assert list(values) == sorted(values, reverse=True)
    assert values[-1] <= TOLERANCE < values[-2]


def test_a_model_that_never_forgets_has_a_longer_memory_than_was_measured():
    torch.manual_seed(5)
    model = lifted(Net(forget_bias=30.0))
    measured = memory.measure(model, eager_runner(model))
    assert (measured["steps"], measured["limit"]) == (None, memory.LIMIT)
    assert [steps for steps, _ in measured["agreement"]] == list(memory.KEPT)


def test_what_is_no_number_agrees_with_nothing():
    torch.manual_seed(5)
    model = lifted(Net())
    run = eager_runner(model)
    measured = memory.measure(model, lambda x, states: [tensor * math.nan for tensor in run(x, states)])
    assert measured["steps"] is None
    assert {value for _, value in measured["agreement"]} == {None}


def test_it_stands_in_the_signature_and_in_what_the_command_says(place, capsys):
    assert command.main(arguments(place)) == 0
    said = capsys.readouterr().out
    archive = str(place / "store" / "load-1.0.mar")
    command.main(["inspect", archive, "--json"])
    steps = orjson.loads(capsys.readouterr().out)["memory"]["steps"]
    assert f"  memory: {steps} steps, from which on streams that began from different states agree within 2e-05" in said
    command.main(["inspect", archive])
    assert f"memory    {steps} steps, from which on" in capsys.readouterr().out


def test_a_longer_memory_is_said_to_be_longer():
    assert command._memory({"steps": None, "limit": 512, "tolerance": 2e-5}).startswith("longer than 512 steps: ")


def test_a_model_that_does_not_stream_has_no_memory(place, capsys):
    whole = "class Whole(Load):\n    def forward(self, x):\n        return self.head(self.lstm(x)[0].mean(1))\n"
    (place / "net.py").write_text(f"{(place / 'net.py').read_text()}\n\n{whole}")
    assert command.main(arguments(place, factory="Whole")) == 0
    assert "memory:" not in capsys.readouterr().out
    command.main(["inspect", str(place / "store" / "load-1.0.mar"), "--json"])
    assert "memory" not in orjson.loads(capsys.readouterr().out)


def test_differences_are_rounded_up_to_two_digits():
    assert [memory._rounded(value) for value in (0.0, 1.21e-5, 0.149, 3.0, 123.4)] == [0.0, 1.3e-5, 0.15, 3.0, 130.0]
    assert memory._rounded(np.inf) is None
