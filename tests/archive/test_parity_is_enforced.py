"""The exporter refuses to archive what disagrees with the eager model: broken artefacts, models that a graph cannot hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from export.build import build
from export.errors import ExportError, ParityError
from export.lift.lifted import lift
from export.verify.parity import verify
from export.writers import onnx as onnx_writer
from export.writers import torch_export, torchscript
from tests.conftest import NUMERIC, left_out, write_checkpoint


def swap_final_states(graph):
    """What the field is known for: h and c paired by the wrong order. Same shapes, no error, another model."""
    names = {"h_n": "c_n", "c_n": "h_n"}
    for node in graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]


def swap_initial_states(graph):
    names = {"h_0": "c_0", "c_0": "h_0"}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def forget_the_initial_state(graph):
    """A graph that begins at zero whatever state is given: right on every first request, wrong on every later one."""
    [lstm] = [node for node in graph.node if node.op_type == "LSTM"][:1]
    shape = numpy_helper.from_array(np.float32([0]), "zero")
    graph.initializer.append(shape)
    at = list(graph.node).index(lstm)
    graph.node.insert(at, onnx.helper.make_node("Mul", [lstm.input[5], "zero"], ["forgotten"]))
    lstm.input[5] = "forgotten"


def scale_a_weight(graph):
    """By a thousandth: too little for the eye."""
    largest = max(graph.initializer, key=lambda tensor: numpy_helper.to_array(tensor).size)
    scaled = numpy_helper.to_array(largest) * np.float32(1.001)
    largest.CopyFrom(numpy_helper.from_array(scaled, largest.name))


def exchange_gates(graph):
    """i and f in each other's place, as by an exporter with another gate order."""
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 3 and array.shape[1] == 32:  # [D, 4*H, ...]
            i, o, f, c = np.split(array, 4, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([f, o, i, c], axis=1), tensor.name))


TAMPERINGS = [swap_final_states, swap_initial_states, forget_the_initial_state, scale_a_weight, exchange_gates]


@pytest.fixture(scope="module")
def lifted(two):
    return lift(two.model, torch.from_numpy(two.sequence(16))[None])


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_a_graph_that_differs_is_found_by_name_size_and_place(two, lifted, tmp_path, tamper):
    model = onnx.load(two.folder / "model.onnx")
    tamper(model.graph)
    onnx.save(model, tmp_path / "model.onnx")
    report = verify(two.model, lifted, {"onnxruntime": tmp_path / "model.onnx"})
    with pytest.raises(ParityError, match=r"^ONNX Runtime.*: (y|output|h_n|c_n) differs from the eager model by \S+ at .*; allowed 2e-05"):
        report.check()


def test_a_graph_of_a_model_that_cannot_be_cut_is_measured_too(exported, tmp_path):
    whole = exported("bidirectional")
    model = onnx.load(whole.folder / "model.onnx")
    scale_a_weight(model.graph)
    onnx.save(model, tmp_path / "model.onnx")
    lifted = lift(whole.model, torch.from_numpy(whole.sequence(16))[None])
    with pytest.raises(ParityError):
        verify(whole.model, lifted, {"onnxruntime": tmp_path / "model.onnx"}).check()


def test_the_graph_that_was_not_touched_passes(two, lifted):
    verify(two.model, lifted, {"onnxruntime": two.folder / "model.onnx"}).check()


def test_a_torchscript_file_of_another_model_is_found(exported, two, lifted):
    with pytest.raises(ParityError, match=r"^TorchScript"):
        verify(two.model, lifted, {"torchscript": exported("retrained").folder / "model.pt"}).check()


def target_of(arguments):
    return next(argument for argument in arguments if isinstance(argument, Path))


def spoil(monkeypatch, writer, name, other):
    """Put the bytes of another file into the one that the exporter has just written; the exporter is real."""
    write = getattr(writer, name)

    def write_and_spoil(*arguments, **options):
        written = write(*arguments, **options)
        target_of(arguments).write_bytes(other.read_bytes())
        return written

    monkeypatch.setattr(writer, name, write_and_spoil)
    monkeypatch.setattr(torch_export, "write_program", left_out)


def test_a_refused_build_leaves_no_archive_and_no_harm_to_an_old_one(two, exported, tmp_path, monkeypatch):
    spoil(monkeypatch, torchscript, "write_torchscript", exported("retrained").folder / "model.pt")
    for before in ([], [("two-1.0.mar", b"the old archive")]):
        for name, data in before:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ParityError, match=r"^TorchScript"):
            build(two.checkpoint, tmp_path)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == before


def test_an_onnx_file_that_differs_is_left_out_with_its_difference(two, exported, tmp_path, monkeypatch):
    spoil(monkeypatch, onnx_writer, "write_onnx", exported("retrained").folder / "model.onnx")
    signature = build(two.checkpoint, tmp_path).signature
    assert signature["artefacts"] == {"torchscript": "model.pt"}
    assert "differs" in signature["skipped"]["onnxruntime"]


MODELS = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Branching(Plain):
    '''What a tracer freezes: a branch on the data.'''

    def forward(self, x):
        y = super().forward(x)
        return y if x.abs().mean() < 0.8 else -y


class Drawing(Plain):
    '''Dropout that is never off: no two runs agree.'''

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, training=True)
"""


@pytest.mark.parametrize(("name", "fate"), [("Plain", "built"), ("Branching", "refused"), ("Drawing", "refused")])
def test_a_model_that_no_graph_can_hold_is_refused_and_nothing_is_archived(tmp_path, monkeypatch, name, fate):
    """The plain one beside them shows that it is the model that is refused, not the way it was brought here."""
    monkeypatch.setattr(torch_export, "write_program", left_out)
    source, space = tmp_path / "models.py", {}
    source.write_text(MODELS)
    exec(compile(MODELS, str(source), "exec"), space)
    torch.manual_seed(3)
    card = NUMERIC | {"name": "odd", "version": "1.0", "factory": f"{source}:{name}"}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", space[name](), card)
    (tmp_path / "store").mkdir()
    if fate == "refused":
        with pytest.raises(ExportError):
            build(checkpoint, tmp_path / "store")
    else:
        build(checkpoint, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == (["odd-1.0.mar"] if fate == "built" else [])


def test_weights_that_are_not_the_models_are_refused(two, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.json").write_bytes((two.checkpoint / "model.json").read_bytes())
    save_file({"lstm.weight_ih_l0": torch.zeros(32, 3)}, checkpoint / "weights.safetensors")
    with pytest.raises(ExportError):
        build(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
