"""The verifier can fail: each fault that exporters of recurrent models are known for, put in by hand, is found."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.errors import LiftError, ParityError
from export.lift import loop_state
from export.lift.lifted import lift
from export.verify import parity, streaming
from export.writers.onnx import write_onnx
from export.writers.torchscript import write_torchscript
from export.writers.tracing import graph_module
from tests.support import tutorial_zoo
from tests.support.changed_states import ChangedState
from tests.support.generated_models import Integers, Orders, Padding, Ranges, Shapes
from tests.support.hard_models import OnAnExactNumber
from tests.support.model_zoo import STREAMING, F, H, LastStep

CASES = ("last step", "several LSTMs")


class Normalised(LastStep):
    def __init__(self, times=1):
        super().__init__()
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = (x - 3.0) / 2.0
        return super().forward(x)


def written(lifted, folder, module=None):
    path = folder / "model.onnx"
    write_onnx(module or graph_module(lifted, lifted.window()), lifted, lifted.window(), path)
    return path


def check(model, lifted, path):
    parity.verify(model, lifted, {"onnxruntime": path}).check()


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    for name, value in {"STEPS": (1, 2, 24), "LONG": 60, "LENGTHS": (512,)}.items():
        monkeypatch.setattr(parity, name, value)
    monkeypatch.setattr(streaming, "LONG", 700)


@pytest.fixture
def plain(tmp_path):
    torch.manual_seed(2)
    model = LastStep().eval()
    lifted = lift(model, torch.randn(2, 12, F))
    return model, lifted, written(lifted, tmp_path)


class Mutant(nn.Module):
    """The lifted module with its inputs and results changed on the way."""

    def __init__(self, base, before=lambda x, states: (x, states), after=lambda results: results):
        super().__init__()
        self.base, self.before, self.after = base, before, after

    def forward(self, x, *states):
        x, states = self.before(x, states)
        return tuple(self.after(list(self.base(x, *states))))


def lose_the_second_layer(x, states):
    return x, [torch.cat([part[:1], torch.zeros_like(part[1:])]) for part in states]


def freeze_the_initial_state(x, states):
    return x, [torch.zeros_like(part) for part in states]


def exchange_rows(x, states):
    return x, [part.flip(1) for part in states]


def freeze_the_length(x, states):
    return x[:, :12], states


MUTANTS = {
    "h in the place of c": {"before": lambda x, states: (x, states[::-1])},
    "h_n in the place of c_n": {"after": lambda r: [r[0], r[1], r[3], r[2]]},
    "a layer's state lost": {"before": lose_the_second_layer},
    "the initial state frozen": {"before": freeze_the_initial_state},
    "the batch exchanged": {"before": exchange_rows},
    "T frozen": {"before": freeze_the_length},
    "one layer's final state for another's": {"after": lambda r: [r[0], r[1], r[2].flip(0), r[3]]},
    "y of the step before": {"after": lambda r: [r[0] * 1.001, *r[1:]]},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_graph_with_a_fault_is_refused(plain, tmp_path, name):
    model, lifted, _ = plain
    path = written(lifted, tmp_path, Mutant(lifted.base, **MUTANTS[name]).eval())
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(model, lifted, path)


def test_the_same_way_without_a_fault_passes(plain, tmp_path):
    model, lifted, _ = plain
    check(model, lifted, written(lifted, tmp_path, Mutant(lifted.base).eval()))


def test_gates_in_another_order_are_found(plain):
    model, lifted, path = plain
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 3 and array.shape[1] == 4 * H:
            i, o, f, c = np.split(array, 4, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([i, f, c, o], axis=1), tensor.name))
    onnx.save(graph, path)
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(model, lifted, path)


def test_normalising_twice_is_found(tmp_path):
    torch.manual_seed(2)
    once, twice = Normalised(1).eval(), Normalised(2).eval()
    twice.load_state_dict(once.state_dict())
    example = torch.randn(2, 12, F) * 2 + 3
    lifted = lift(once, example)
    path = written(lift(twice, example), tmp_path)
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(once, lifted, path)


def test_two_modules_states_exchanged_are_found(tmp_path):
    torch.manual_seed(2)
    model = STREAMING["several LSTMs"].make().eval()
    lifted = lift(model, STREAMING["several LSTMs"].example())
    swap = {"before": lambda x, states: (x, [*states[2:4], *states[:2], *states[4:]])}
    path = written(lifted, tmp_path, Mutant(lifted.base, **swap).eval())
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(model, lifted, path)


def test_a_reset_that_the_example_never_triggers_is_found_when_it_is_lost(monkeypatch):
    """The lift follows tensors by identity; without that, inputs about the numbers that the model compares with still find the loss."""
    monkeypatch.setattr(loop_state, "find", lambda *runs: loop_state.Loop(frozenset(), None))
    torch.manual_seed(2)
    model = ChangedState("GRUCell", "reset by a gap", "zeros", after=True).eval()
    with pytest.raises(LiftError, match="stepped one by one"):
        lift(model, model.example())


def test_ids_that_no_example_holds_are_measured(tmp_path):
    torch.manual_seed(2)
    specimen = tutorial_zoo.STREAMING["sentiment over tokens"]
    model = specimen.make().eval()
    lifted = lift(model, torch.randint(1, 20, (2, 12)), specimen.tokens)
    path = written(lifted, tmp_path, Mutant(lifted.base, before=lambda x, states: (x.clamp(max=25), states)).eval())
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(model, lifted, path)


def test_a_fault_beyond_the_example_s_numbers_is_found(plain, tmp_path):
    model, lifted, _ = plain
    path = written(lifted, tmp_path, Mutant(lifted.base, before=lambda x, states: (x.clamp(-6, 6), states)).eval())
    with pytest.raises(ParityError, match="ONNX Runtime, window"):
        check(model, lifted, path)


def test_a_branch_on_an_exact_number_is_found_when_it_is_lost(plain, tmp_path):
    """No example holds the number; it is drawn because the model compares with it."""
    _, _, path = plain
    torch.manual_seed(2)
    model = OnAnExactNumber().eval()
    with pytest.raises(ParityError, match="ONNX Runtime, window"):
        check(model, lift(model, torch.randn(2, 12, F)), path)


def test_padding_that_is_not_counted_is_found(tmp_path):
    torch.manual_seed(2)
    model = Padding(kind="gather", pad=-1, words=False).eval()
    lifted = lift(model, model.example())
    ignoring = {"before": lambda x, states: (torch.where(x == -1, -1.001, x), states)}
    path = written(lifted, tmp_path, Mutant(lifted.base, **ignoring).eval())
    with pytest.raises(ParityError, match="ONNX Runtime, window"):
        check(model, lifted, path)


def test_an_integer_that_the_example_does_not_hold_is_found_when_it_is_lost(tmp_path):
    """The model takes 1 to 7, by a table that it indexes with the integer less one."""
    torch.manual_seed(2)
    model = Integers(kind="from one", place="column").eval()
    x = model.example()[0]
    x[..., -1] = x[..., -1].clamp(max=4)
    lifted = lift(model, x)
    assert lifted.sampler.ranges == {2: (1, 7)}
    path = written(lifted, tmp_path, Mutant(lifted.base, before=lambda x, states: (x.clamp(max=6), states)).eval())
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(model, lifted, path)


def assert_found(model, tmp_path, before):
    """The model's artefact, with its inputs changed by `before` on the way, is found to differ."""
    lifted = lift(model, model.example())
    path = written(lifted, tmp_path, Mutant(lifted.base, before=before).eval())
    with pytest.raises(ParityError, match="ONNX Runtime"):
        check(model, lifted, path)


def test_a_sign_that_is_lost_is_found(tmp_path):
    torch.manual_seed(2)
    model = Ranges(kind="negative root", scale=5e3).eval()
    assert_found(model, tmp_path, lambda x, states: (x.clamp(min=-9e3), states))


def test_axes_that_are_exchanged_are_found(tmp_path):
    torch.manual_seed(2)
    model = Orders(order="BFT", beside="nothing").eval()
    assert_found(model, tmp_path, lambda x, states: (x.flip(-1), states))


def test_a_table_that_is_cut_is_found(tmp_path):
    torch.manual_seed(2)
    model = Shapes(kind="flat", n=5).eval()
    assert_found(model, tmp_path, lambda x, states: (torch.cat([x[:, :-4] * 0, x[:, -4:]], 1), states))


def test_an_onnx_file_with_a_fault_is_left_out_beside_a_torchscript_file_that_is_right(plain, tmp_path):
    model, lifted, _ = plain
    path = written(lifted, tmp_path, Mutant(lifted.base, before=exchange_rows).eval())
    write_torchscript(graph_module(lifted, lifted.window()), lifted, lifted.window(), tmp_path / "model.pt")
    report = parity.verify(model, lifted, {"torchscript": tmp_path / "model.pt", "onnxruntime": path})
    report.check()
    assert list(report.dropped) == ["onnxruntime"]
    assert "differs from the eager model" in report.dropped["onnxruntime"]


def test_a_fault_after_five_hundred_steps_is_found(plain, tmp_path):
    """The graph itself is right up to 450 steps."""
    model, lifted, _ = plain

    def forget(x, states):
        return torch.where(torch.arange(x.size(1))[None, :, None] < 450, x, torch.zeros_like(x)), states

    path = written(lifted, tmp_path, Mutant(lifted.base, before=forget).eval())
    with pytest.raises(ParityError, match="ONNX Runtime, window"):
        check(model, lifted, path)
