"""Models that nobody wrote for serving, through the service: a session cut in pieces is the unmodified module on the whole sequence."""

import zipfile

import numpy as np
import pytest
import torch

from export.build import build_checkpoint
from export.lift.lifted import lift
from export.packaging.checkpoint import Checkpoint
from export.packaging.model_spec import ModelSpec
from export.writers import torch_export
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.memory import MemoryStore
from tests.conftest import BACKENDS, answer, assert_close, left_out
from tests.export.test_golden import NAMES as NAMED
from tests.export.test_golden import as_torch
from tests.export.test_golden import published as published
from tests.support import model_zoo, tutorial_zoo
from tests.support.in_process import InProcess

NAMES = (
    "several LSTMs", "two cells in a loop", "GRU", "packed sequences", "static covariates", "encoder and decoder", "learned initial state",
    "mean and scale", "state as an argument", "the same LSTM twice",
)  # fmt: skip
STREAMING = model_zoo.STREAMING | tutorial_zoo.STREAMING
PIECES = (1, 4, 5, 2)


def served_by_all(model, spec, example, place):
    """The signature of an archive built of the model, and a service over it on each backend that it has."""
    built = build_checkpoint(Checkpoint(model, spec, example if isinstance(example, tuple | dict) else (example,)), place)
    with zipfile.ZipFile(built.archive) as archive:
        archive.extractall(place / "unzipped")
    signature, services = Signature.load(place / "unzipped" / "signature.json"), {}
    for name in set(BACKENDS) & set(signature.artefacts):
        settings = Settings(backend=name)
        backend = open_backend(place / "unzipped", signature, settings)
        services[name] = InProcess(ServiceContext(backend, signature, MemoryStore(), settings))
    return signature, services


def served(model, spec, example, backend, place):
    """The service over an archive built of the model, and its signature."""
    signature, services = served_by_all(model, spec, example, place)
    return services[backend], signature


@pytest.mark.parametrize("backend", ["onnxruntime", "torchscript"])
@pytest.mark.parametrize("name", NAMES)
def test_a_session_in_pieces_is_the_unmodified_module_on_the_whole(name, backend, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_export, "write_program", left_out)
    torch.manual_seed(3)
    specimen = STREAMING[name]
    model, example = specimen.make().eval(), specimen.example()
    spec = ModelSpec(name="specimen", version="1.0", factory="zoo.py:specimen", task="regress", tokens=specimen.tokens)
    service, signature = served(model, spec, example, backend, tmp_path)
    lifted = lift(model, example)
    x = lifted.inputs(1, sum(PIECES), torch.Generator().manual_seed(5))
    expected = lifted.unmodified(model, x)[0].numpy()

    position, predictions = 0, []
    for piece in PIECES:
        inputs = x[0, position : position + piece].tolist()
        predictions.append(answer(service, {"inputs": inputs, "session": {"id": "s", "step": position}})["prediction"])
        position += piece
    whole = np.concatenate(predictions) if signature.output_mode == "step" else predictions[-1]
    assert_close(whole, expected, f"{name}, {backend}")


@pytest.mark.parametrize("backend", ["onnxruntime", "torchscript"])
@pytest.mark.parametrize("name", NAMED)
def test_the_published_vectors_of_the_onnx_operator_come_out_of_a_session(published, name, backend, tmp_path, monkeypatch):
    """Its h_n after the published sequence, sent step by step: from the second step on the initial state is not zero."""
    monkeypatch.setattr(torch_export, "write_program", left_out)
    model, x, results, batchwise = as_torch(published[name])
    spec = ModelSpec(name="published", version="1.0", factory="golden.py:Bare", task="regress")
    service, _ = served(model, spec, torch.randn(2, 6, x.shape[2]), backend, tmp_path)
    expected = (results["Y_h"].transpose(0, 1) if batchwise else results["Y_h"]).numpy()  # [D, B, H]
    for row, sequence in enumerate(x):
        for step, values in enumerate(sequence.tolist()):
            reply = answer(service, {"inputs": [values], "session": {"id": f"s{row}", "step": step}, "return": ["h_n"]})
        assert_close(reply["h_n"], expected[:, row], f"{name}, row {row}")
