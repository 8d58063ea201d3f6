"""Published vectors: the LSTM tests of the ONNX standard, through a lifted nn.LSTM and its artefacts.

The vectors are those of `onnx.backend.test.case.node.lstm`. `test_lstm_with_peepholes` is left out: nn.LSTM has no peepholes. None of the
others begins with a state, so the sequence is also cut: the second part must go on from the published final state.
"""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases
from torch import nn

from export.lift.lifted import lift
from export.verify.runners import onnx_runner, run_in_pieces, torchscript_runner
from export.writers.onnx import write_onnx
from export.writers.torchscript import write_torchscript
from export.writers.tracing import graph_module

NAMES = ("test_lstm_defaults", "test_lstm_with_initial_bias", "test_lstm_batchwise")


@pytest.fixture(scope="module")
def published():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other operators' cases, which are collected on the way
        return {case.name: case for case in collect_testcases("LSTM") if case.name in NAMES}


def reordered(weight):
    """ONNX has the gates i, o, f, c; torch i, f, c, o."""
    i, o, f, c = np.split(weight, 4)
    return torch.from_numpy(np.concatenate([i, f, c, o]).astype(np.float32))


class Bare(nn.Module):
    def __init__(self, inputs, hidden):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


def as_torch(case):
    """The module with the published weights, x `[B, T, F]`, and the published results by name."""
    node = case.model.graph.node[0]
    inputs, outputs = case.data_sets[0]
    given = dict(zip([name for name in node.input if name], map(np.asarray, inputs), strict=True))
    x, w, r = given["X"], given["W"][0], given["R"][0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    batchwise = attributes.get("layout", 0) == 1
    model = Bare(w.shape[1], attributes["hidden_size"])
    b_w, b_r = np.split(given["B"][0], 2) if "B" in given else np.zeros((2, w.shape[0]), np.float32)
    names = {"weight_ih_l0": w, "weight_hh_l0": r, "bias_ih_l0": b_w, "bias_hh_l0": b_r}
    model.lstm.load_state_dict({name: reordered(value) for name, value in names.items()})
    results = {name: torch.from_numpy(np.asarray(value)) for name, value in zip([n for n in node.output if n], outputs, strict=True)}
    x = torch.from_numpy(x.astype(np.float32))
    return model.eval(), x if batchwise else x.transpose(0, 1).contiguous(), results, batchwise


@pytest.mark.parametrize("name", NAMES)
def test_the_artefacts_give_the_published_results(published, name, tmp_path):
    model, x, results, batchwise = as_torch(published[name])
    lifted = lift(model, torch.randn(2, 6, x.shape[2]))
    graph = graph_module(lifted, lifted.window())
    write_torchscript(graph, lifted, lifted.window(), tmp_path / "model.pt")
    write_onnx(graph, lifted, lifted.window(), tmp_path / "model.onnx")
    for runner in (onnx_runner(tmp_path / "model.onnx"), torchscript_runner(tmp_path / "model.pt")):
        _, output, h_n, _ = runner(x, lifted.start(len(x)))
        check(output, h_n, results, batchwise)
        halves = torch.cat([x, x], 1)  # cut where the published sequence ends: the first state is the published one
        whole = runner(halves, lifted.start(len(x)))
        pieces = run_in_pieces(runner, halves, lifted.start(len(x)), [x.shape[1]], per_step=True)
        for a, b in zip(pieces, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def check(output, h_n, results, batchwise):
    expected = results["Y_h"].transpose(0, 1) if batchwise else results["Y_h"]  # [D, B, H]
    torch.testing.assert_close(h_n, expected.float(), rtol=1e-5, atol=1e-6)
    if "Y" in results and batchwise:
        torch.testing.assert_close(output, results["Y"].flatten(2).float(), rtol=1e-5, atol=1e-6)
