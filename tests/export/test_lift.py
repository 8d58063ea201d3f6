"""Every model of the zoo: lifted right, or lifted as whole-window with a measured reason, or refused with one clear line."""

import functools
import re
import warnings
from pathlib import Path

import pytest
import torch

from export.difference import difference
from export.errors import ExportError
from export.lift.lifted import lift
from export.report import TOLERANCE
from export.verify import parity, streaming
from export.verify.runners import onnx_runner, random_cuts, run_in_pieces, torchscript_runner
from export.writers.onnx import write_onnx
from export.writers.torch_export import write_program
from export.writers.torchscript import write_torchscript
from export.writers.tracing import graph_module
from tests.support import model_zoo, tutorial_zoo
from tests.support.model_zoo import F
from tests.support.refused_zoo import REFUSED
from tests.support.whole_window_zoo import WHOLE

STREAMING = model_zoo.STREAMING | tutorial_zoo.STREAMING
EXPORTED_AS_PROGRAM = ("projection", "GRU", "GRU cell")


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    """The grid of a build, with less of the same."""
    for name, value in {"BATCHES": (1, 3), "STEPS": (1, 2, 19), "LONG": 40, "LENGTHS": (70, 600), "CUTS": 2}.items():
        monkeypatch.setattr(parity, name, value)
    monkeypatch.setattr(streaming, "LONG", 700)


def made(specimen):
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return specimen.make().eval(), specimen.example()


def export(specimen, folder, program=False):
    """The model, its lift, its artefacts and what the verifier says of them."""
    model, example = made(specimen)
    lifted = lift(model, example)
    files = {"torchscript": folder / "model.pt", "onnxruntime": folder / "model.onnx"}
    x = lifted.window()
    graph = graph_module(lifted, x)
    write_torchscript(graph, lifted, x, files["torchscript"])
    write_onnx(graph, lifted, x, files["onnxruntime"])
    if program:
        files["torch.export"] = folder / "model.pt2"
        write_program(lifted, x, files["torch.export"])
    report = parity.verify(model, lifted, files)
    report.check()
    return model, lifted, files, report


@pytest.mark.parametrize("name", STREAMING)
def test_any_cut_through_an_artefact_is_the_unmodified_model_on_the_whole(name, tmp_path):
    model, lifted, files, report = export(STREAMING[name], tmp_path)
    assert report.streaming_reason == ""
    generator = torch.Generator().manual_seed(3)
    x = lifted.inputs(2, 30, generator)
    expected = lifted.unmodified(model, x)
    for runner in (onnx_runner(files["onnxruntime"]), torchscript_runner(files["torchscript"])):
        for _ in range(3):
            cuts = random_cuts(30, generator)
            y = run_in_pieces(runner, x, lifted.start(2), cuts, lifted.output_mode == "step")[0]
            found = difference(y, expected)
            assert found <= TOLERANCE, f"cut at {cuts}: largest scaled difference {found:.2e}"


@pytest.mark.parametrize("name", WHOLE)
def test_what_needs_the_whole_window_is_exported_and_says_why_it_does_not_stream(name, tmp_path):
    *_, report = export(WHOLE[name], tmp_path)
    assert re.search(r"differs from the whole sequence's by \d|steps at once", report.streaming_reason)


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_with_place_reason_and_remedy_in_one_line(name, tmp_path):
    with pytest.raises(ExportError) as caught:
        export(REFUSED[name], tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    place, remedy = PLACE_AND_REMEDY[name]
    assert re.search(place, message), message
    assert remedy in message


PLACE_AND_REMEDY = {
    "branches on values": (r"zoo\.py:\d+", "torch.where"),
    "random initial state": (r"^lstm: .*zoo\.py:\d+", "zeros or a parameter"),
    "custom autograd": (r"TorchScript cannot hold", "write that operation with others"),
    "no recurrence": (r"model's forward", "nn.LSTM"),
    "state from static input": (r"^lstm:", "as an argument of forward"),
    "state from an id column": (r"^lstm:", "as an argument of forward"),
    "rows meet": (r"rows of a batch", "keep axis 0"),
    "remembers its input": (r"between calls", "make it a recurrent state"),
    "a coin": (r"two runs on the same input differ", "nothing random"),
    "dropout that is never off": (r"refused_zoo\.py:\d+", "training=self.training"),
    "batch_first forgotten": (r"no output of the model.* B=2 T=5", "batch_first=True"),
    "no batch axis": (r"x is \[9\]", "wrap it"),
    "cells and a look back": (r"stepped one by one", "call an nn.LSTM over the whole sequence"),
    "scripted LSTM": (r"^lstm:", "plain nn.LSTM"),
    "float64": (r"^lstm\.weight_ih_l0", "model.float()"),
    "a list of steps": (r"returns 12 tensors for T=12 and 15 for T=15", "torch.stack"),
    "every second step": (r"no output of the model.* B=2 T=12", "one a row and step"),
    "NumPy": (r"refused_zoo\.py:\d+", "PyTorch's operations alone"),
    "nothing at the first step": (r"^cell: not called at all", "begin the loop over time at the first step"),
    "several rows for one": (r"^lstm: runs over 10 rows for 2 rows of x", "a row of x of its own"),
    "a row without a number": (r"example holds NaN", "without holes"),
    "a bool among tensors": (r"it has no mul of Tensor, bool", "make a float"),
    "called for every seven steps": (r"^lstm: how often it is called depends on T", "call it once over all steps"),
    "a size taken out": (r"TorchScript fails at B=1", "x.size(0)"),
}


@pytest.mark.parametrize("name", EXPORTED_AS_PROGRAM)
def test_the_exported_program_agrees(name, tmp_path):
    *_, report = export(STREAMING[name], tmp_path, program=True)
    assert "torch.export" in {d.artefact for d in report.differences}
    assert not report.dropped


@functools.cache
def lifted(name):
    return lift(*made(STREAMING[name]))


@pytest.mark.parametrize("name", STREAMING)
def test_names_of_states_sort_alike_on_both_sides(name):
    """A server that pairs state tensors by the order of their names pairs them right."""
    state = lifted(name).state
    assert [n[:-2] for n in sorted(e.input for e in state)] == [n[:-2] for n in sorted(e.output for e in state)]
    assert len({e.name for e in state}) == len(state)


def test_a_new_stream_begins_with_what_the_model_begins_with():
    model, example = made(STREAMING["learned initial state"])
    h, c = lift(model, example).start(2)
    assert torch.equal(h, model.h0.expand(-1, 2, -1))
    assert torch.equal(c, model.c0.expand(-1, 2, -1))
    assert not lifted("explicit zeros, squeezed").initial.any()


def test_an_example_of_zeros_hides_nothing(tmp_path):
    """Any constant looks the same backwards: the probes do not rely on the example's variety."""
    for name in ("flipped", "convolution over time"):
        model, _ = made(WHOLE[name])
        lifted = lift(model, torch.zeros(1, 12, F))
        assert "differs" in parity.verify(model, lifted, {"torchscript": written(lifted, tmp_path)}).streaming_reason


def written(lifted, folder: Path) -> Path:
    write_torchscript(graph_module(lifted, lifted.window()), lifted, lifted.window(), folder / "model.pt")
    return folder / "model.pt"


def test_the_model_given_is_left_as_it_was():
    model, example = made(STREAMING["keeps self.hidden"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lift(model, example)
    assert model.hidden is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "forward" not in vars(model.lstm)
    assert torch.nn.LSTM.forward.__module__ == "torch.nn.modules.rnn"
