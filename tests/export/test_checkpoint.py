"""Weights must fit the model exactly: what is missing, left over or of another shape is named."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.errors import CheckpointError
from export.packaging.checkpoint import build_model, read_example
from export.packaging.model_spec import ModelSpec

SOURCE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, layers=1, hidden=4):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, hidden, layers, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])
"""


@pytest.fixture
def build(tmp_path):
    """Save a state dict, and load it into a model of the given sizes."""
    (tmp_path / "net.py").write_text(SOURCE)
    space: dict[str, type[nn.Module]] = {}
    exec(SOURCE, space)

    def built(state, **arguments):
        save_file(state, tmp_path / "w.safetensors")
        factory = f"{tmp_path / 'net.py'}:Net"
        return build_model(ModelSpec("net", "1.0", factory, "regress", arguments=arguments), tmp_path / "w.safetensors")

    def state(prefix="", **arguments):
        return {prefix + name: value.clone() for name, value in space["Net"](**arguments).state_dict().items()}

    return built, state


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_tensors_of_a_layer_that_the_model_does_not_have_are_refused(build, prefix):
    built, state = build
    with pytest.raises(CheckpointError, match=rf"4 tensors have no place in the model: {re.escape(prefix)}lstm\.bias_hh_l1"):
        built(state(prefix, layers=2), layers=1)


def test_names_that_torch_compile_makes_are_understood(build):
    built, state = build
    weights = state()
    renamed = {f"model._orig_mod.{name.replace('lstm.', 'lstm._orig_mod.')}": value for name, value in weights.items()}
    assert torch.equal(built(renamed).state_dict()["head.weight"], weights["head.weight"])


def test_a_tensor_outside_the_prefix_of_the_others_is_refused(build):
    built, state = build
    with pytest.raises(CheckpointError, match=r"1 tensors have no place in the model: decoder\.weight"):
        built(state("model.") | {"decoder.weight": torch.zeros(2)})


@pytest.mark.parametrize("name", ["n_averaged", "criterion.weight", "val_metrics.accuracy.tp", "loss_fn.pos_weight"])
def test_what_training_frameworks_save_beside_a_model_is_left_alone(build, name):
    built, state = build
    weights = state("model.")
    model = built(weights | {name: torch.zeros(2)})
    assert torch.equal(model.state_dict()["head.weight"], weights["model.head.weight"])


class Univariate(nn.Module):
    """x is [B, T]."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x[..., None])[0][:, -1]


def saved(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize(("model", "shape"), [(Univariate(), (5, 12)), (nn.LSTM(12, 4, batch_first=True), (1, 5, 12))])
def test_two_axes_are_one_window_or_a_batch_of_series_as_the_model_takes_them(tmp_path, model, shape):
    [x] = read_example(saved(tmp_path / "x.npy", np.zeros((5, 12), np.float32)), 0, model)
    assert tuple(x.shape) == shape


def test_large_numbers_are_no_integers_unless_float32_rounds_them(tmp_path):
    read_example(saved(tmp_path / "x.npy", np.full((5, 12), 125_730_216.0, np.float32)), 0, Univariate())
    with pytest.raises(CheckpointError, match="1700000001"):
        read_example(saved(tmp_path / "y.npy", np.full((5, 12), 1_700_000_001)), 0, Univariate())


def test_another_size_names_one_tensor_and_counts_the_others(build):
    built, state = build
    with pytest.raises(CheckpointError) as caught:
        built(state(hidden=8), hidden=4)
    assert re.search(r"lstm\.weight_ih_l0 is \[32, 2\], the model expects \[16, 2\], and 4 more tensors differ", str(caught.value))
    assert len(str(caught.value)) < 300
