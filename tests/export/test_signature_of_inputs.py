"""What the signature says of inputs is what was measured, and its example is a request that is answered."""

import zipfile

import onnx
import orjson
import pytest
import torch

from export.build import FILES, build_checkpoint
from export.errors import LiftError
from export.lift.lifted import lift
from export.packaging.checkpoint import Checkpoint
from export.packaging.model_spec import ModelSpec
from export.verify import parity, streaming
from export.writers import onnx as onnx_writer
from export.writers import torch_export
from export.writers.tracing import graph_module
from handlers.signature import Signature
from tests.conftest import left_out
from tests.support.generated_models import Integers
from tests.support.hard_models import HARD, Ids, LastTwelve, Roots
from tests.support.model_zoo import STREAMING, F


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    monkeypatch.setattr(torch_export, "write_program", left_out)
    for name, value in {"BATCHES": (1, 2), "STEPS": (1, 2, 19), "LONG": 40, "LENGTHS": (70,), "CUTS": 2}.items():
        monkeypatch.setattr(parity, name, value)
    monkeypatch.setattr(streaming, "LONG", 100)


def built(model, example, store, **fields):
    torch.manual_seed(1)
    spec = ModelSpec(**{"name": "made", "version": "1.0", "factory": "made.py:made", "task": "regress"} | fields)
    return build_checkpoint(Checkpoint(model.eval(), spec, example if isinstance(example, tuple) else (example,)), store)


def signature_of(model, example, store, **fields):
    return Signature.from_document(orjson.loads(orjson.dumps(built(model, example, store, **fields).signature)))


def test_ids_and_integers_are_named_with_their_range(tmp_path):
    signature = signature_of(Ids(), HARD["ids beside x"].example(), tmp_path, features=("a", "b", "c", "station"))
    assert signature.ids == {"station": 20}
    assert signature.integers == ("station",)
    assert signature.nonnegative == ()


def test_integers_that_index_a_table_after_some_arithmetic_have_a_range(tmp_path):
    model = Integers(kind="from one", place="static")
    assert signature_of(model, model.example(), tmp_path).ranges == {"x2": (1, 7)}


def test_a_model_of_one_sign_keeps_it_and_its_own_numbers(tmp_path):
    signature = signature_of(Roots(), torch.rand(2, 12, F) * 5000, tmp_path)
    assert signature.nonnegative == ("x0", "x1", "x2")
    assert signature.input_limit >= 5000


def test_the_min_steps_are_those_at_which_y_has_its_width(tmp_path):
    assert signature_of(LastTwelve(), torch.randn(2, 24, F), tmp_path).min_steps == 12


def test_a_model_that_does_not_stream_is_bounded_by_the_longest_window_compared(tmp_path):
    signature = signature_of(LastTwelve(), torch.randn(2, 24, F), tmp_path)
    assert not signature.streaming
    assert signature.max_steps == 70


def test_the_example_is_a_window_that_the_model_takes(tmp_path):
    example = torch.randn(2, 100, F)
    signature = signature_of(STREAMING["last step"].make(), example, tmp_path)
    assert torch.equal(torch.tensor(signature.example), example[0, :64])


def test_a_signature_of_an_earlier_release_is_read(tmp_path):
    document = built(STREAMING["last step"].make(), torch.randn(2, 12, F), tmp_path).signature
    inputs = {name: document["inputs"][name] for name in ("kind", "features", "limit")}
    signature = Signature.from_document(document | {"inputs": inputs})
    assert (signature.ids, signature.integers, signature.example) == ({}, (), ())


def test_an_operator_without_a_form_in_onnx_leaves_an_archive_with_torchscript_alone(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise LiftError("ONNX cannot hold this model: no form")

    monkeypatch.setattr(onnx_writer, "write_onnx", refuse)
    result = built(STREAMING["last step"].make(), torch.randn(2, 12, F), tmp_path)
    assert set(result.signature["artefacts"]) == {"torchscript"} < set(FILES)
    assert result.signature["skipped"]["onnxruntime"].startswith("ONNX cannot hold")
    with zipfile.ZipFile(result.archive) as archive:
        assert "backend: torchscript" in archive.read("model-config.yaml").decode()


def test_sizes_stand_as_numbers_in_the_onnx_file_and_the_opset_is_the_one_asked_for(tmp_path):
    lifted = lift(STREAMING["last step"].make().eval(), torch.randn(2, 12, F))
    onnx_writer.write_onnx(graph_module(lifted, lifted.window()), lifted, lifted.window(), tmp_path / "model.onnx", opset=17)
    model = onnx.load(tmp_path / "model.onnx")
    sizes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert sizes == {"y": ["B", 2], "output": ["B", "T", 8], "h_n": [2, "B", 8], "c_n": [2, "B", 8]}
    assert model.opset_import[0].version == 17
