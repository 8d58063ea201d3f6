"""A scaler from outside goes into the archive as numbers, and clients send their own units."""

import json

import pytest
import torch

from export.errors import CheckpointError
from export.lift.lifted import lift
from export.packaging.model_spec import ModelSpec
from export.scaling import Scaled, read_scaler
from tests.support.model_zoo import F, H, LastStep

SCALER = {"mean": [10.0, 20.0, 30.0], "scale": [2.0, 3.0, 4.0], "output_mean": [100.0], "output_scale": [5.0]}


def test_y_is_the_models_in_the_datas_units():
    torch.manual_seed(1)
    model = LastStep().eval()
    scaled = Scaled(model, SCALER).eval()
    mean, scale = torch.tensor(SCALER["mean"]), torch.tensor(SCALER["scale"])
    x = torch.randn(2, 12, F) * scale + mean
    lifted = lift(scaled, x)
    with torch.no_grad():
        expected = model((x - mean) / scale) * 5 + 100
        torch.testing.assert_close(lifted.module(x, *lifted.start(2))[0], expected)
    assert [(entry.name, entry.rows, entry.size) for entry in lifted.state] == [("h", 2, H), ("c", 2, H)]


def test_a_json_file_is_read(tmp_path):
    (tmp_path / "scaler.json").write_text(json.dumps(SCALER))
    assert read_scaler(tmp_path / "scaler.json") == SCALER


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scaler.joblib", "", "run code"),
        ("scaler.json", "no json", "scaler.json"),
        ("scaler.json", "[1]", "expected an object"),
        ("scaler.json", '{"var": [1]}', "expected an object"),
        ("scaler.json", '{"mean": ["a"]}', "mean: expected a list of numbers"),
        ("scaler.json", '{"scale": [0]}', "none of them 0"),
    ],
)
def test_what_is_no_scaler_is_refused_in_one_sentence(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_scaler(tmp_path / name)


def test_token_ids_have_no_scaler():
    with pytest.raises(CheckpointError, match="token ids are not scaled"):
        ModelSpec("a", "1.0", "f.py:f", "regress", tokens=5, scaler=SCALER)
