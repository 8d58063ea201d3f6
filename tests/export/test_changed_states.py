"""What a model does to its state between two recurrent calls is part of its stream: no state is put in behind the model's back."""

import itertools
import random

import pytest
import torch
from torch import nn

from export.difference import difference
from export.errors import LiftError
from export.lift.lifted import lift
from export.report import TOLERANCE
from export.verify.runners import eager_runner, onnx_runner, run_in_pieces, torchscript_runner
from export.writers.onnx import write_onnx
from export.writers.torchscript import write_torchscript
from export.writers.tracing import graph_module
from tests.support.changed_states import CHANGES, KINDS, RARE, STARTS, ChangedState, WholeSequence
from tests.support.model_zoo import F, H

EVERY = list(itertools.product(KINDS, CHANGES, STARTS, (False, True)))
DRAWN = random.Random(5).sample(EVERY, 10)  # each takes a second; another seed is another ten


def inputs(lifted):
    """Two rows in which the rare gap, that the example never has, comes first, in the middle, and not at all."""
    x = lifted.inputs(3, 20, torch.Generator().manual_seed(3))
    x[0, 7, 0] = x[1, 3, 0] = x[1, 0, 0] = RARE + 10
    return x


def largest_difference(model, runners, lifted):
    x, generator = inputs(lifted), torch.Generator().manual_seed(4)
    states = lifted.random_states(3, generator) if lifted.states_are_arguments else lifted.start(3)
    expected = lifted.unmodified(model, x, states)
    pieces = [run_in_pieces(runner, x, states, [1, 5, 6, 13], lifted.output_mode == "step")[0] for runner in runners]
    return max(difference(piece, expected) for piece in pieces)


@pytest.mark.parametrize("options", DRAWN, ids=str)
def test_a_changed_state_is_carried_as_the_model_changes_it(options, tmp_path):
    torch.manual_seed(1)
    model = ChangedState(*options).eval()
    lifted = lift(model, model.example())
    graph = graph_module(lifted, lifted.window())
    write_torchscript(graph, lifted, lifted.window(), tmp_path / "model.pt")
    write_onnx(graph, lifted, lifted.window(), tmp_path / "model.onnx")
    runners = [onnx_runner(tmp_path / "model.onnx"), torchscript_runner(tmp_path / "model.pt")]
    assert largest_difference(model, runners, lifted) <= TOLERANCE


@pytest.mark.parametrize("returned", [False, True])
def test_an_argument_that_is_reset_before_the_call_is_reset_by_the_model(returned):
    torch.manual_seed(1)
    model = WholeSequence(returned=returned).eval()
    lifted = lift(model, model.example())
    x, states = inputs(lifted), lifted.random_states(3, torch.Generator().manual_seed(4))
    assert difference(eager_runner(lifted)(x, states)[0], lifted.unmodified(model, x, states)) <= TOLERANCE


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(F, H), nn.Linear(H, 1)


class LooksBackTwo(Loop):
    def forward(self, x):
        states = [torch.zeros(x.size(0), H)] * 2
        for t in range(x.size(1)):
            states.append(self.cell(x[:, t], states[-1] + states[-2]))
        return self.head(states[-1])


class WritesInPlace(Loop):
    def forward(self, x):
        h = torch.zeros(x.size(0), H)
        for t in range(x.size(1)):
            h[x[:, t, 0] > RARE] = 0.0
            h = self.cell(x[:, t], h)
        return self.head(h)


class BeginsWithNone(Loop):
    def forward(self, x):
        h = None
        for t in range(x.size(1)):
            if h is not None:
                h = h * (x[:, t, :1] < RARE)
            h = self.cell(x[:, t], h)
        return self.head(h)


class BeginsWithTheInput(Loop):
    """Constant for every input but a rare one."""

    def forward(self, x):
        h = torch.ones(x.size(0), H) * (x[:, 0, :1] < RARE)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
        return self.head(h)


class WholeFromTheInput(Loop):
    def __init__(self):
        super().__init__()
        self.lstm = nn.GRU(F, H, batch_first=True)

    def forward(self, x):
        h = torch.ones(1, x.size(0), H) * (x[:, 0, 0] < RARE)[None, :, None]
        return self.head(self.lstm(x, h)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LooksBackTwo, "looks back by more than one step"),
        (WritesInPlace, "writes into what it carries"),
        (BeginsWithNone, "zeros made before it"),
        (BeginsWithTheInput, "computed from the input"),
        (WholeFromTheInput, "computed from the input"),
    ],
)
def test_a_state_that_cannot_be_followed_is_refused_though_the_example_does_not_show_it(kind, message):
    torch.manual_seed(1)
    with pytest.raises(LiftError, match=message):
        lift(kind().eval(), torch.rand(2, 12, F))


class BufferOfResults(Loop):
    """Writes each step's result into a buffer: that is no state."""

    def forward(self, x):
        h, results = torch.zeros(x.size(0), H), torch.zeros(x.size(0), x.size(1), 1)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h * (x[:, t, :1] < RARE))
            results[:, t] = self.head(h)
        return results


class BeginsAnew(Loop):
    """One cell whose state is not carried beside one whose state is."""

    def __init__(self):
        super().__init__()
        self.other = nn.GRUCell(F, H)

    def forward(self, x):
        h = torch.zeros(x.size(0), H)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h) + self.other(x[:, t])
        return self.head(h)


class FeedsBack(Loop):
    """Reads its own last result: memory that is not a recurrent module's state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(F + 1, H)

    def forward(self, x):
        h, y = torch.zeros(x.size(0), H), torch.zeros(x.size(0), 1)
        for t in range(x.size(1)):
            h = self.cell(torch.cat([x[:, t], y], 1), h)
            y = self.head(h)
        return y


@pytest.mark.parametrize("kind", [BufferOfResults, BeginsAnew, FeedsBack])
def test_other_memory_of_a_loop_is_carried_and_buffers_are_not(kind, tmp_path):
    torch.manual_seed(1)
    model = kind().eval()
    lifted = lift(model, torch.rand(2, 12, F))
    assert largest_difference(model, [eager_runner(lifted)], lifted) <= TOLERANCE
    assert len(lifted.state) == (2 if kind is FeedsBack else 1)
