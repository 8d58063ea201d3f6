"""`--distribution`: what the outputs are parameters of goes into the archive, or nothing is archived."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch

from export import __main__ as command
from export.errors import CheckpointError, ParityError
from export.packaging.distribution import documents
from tests.conftest import export_spec
from tests.export.test_command import arguments, place  # noqa: F401  # a fixture
from tests.support.calibrated import write_series
from tests.support.distribution_models import LEVELS, OUTPUTS, spec

NET = """
import torch
from torch import nn


class Load(nn.Module):
    def __init__(self, raw=False, width=2):
        super().__init__()
        self.raw = raw
        self.lstm, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, width)

    def forward(self, x):
        y = self.head(self.lstm(x)[0][:, -1])
        return y if self.raw else torch.cat([y[:, :1], nn.functional.softplus(y[:, 1:])], 1)
"""
NORMAL = {"features": "power,temperature", "distribution": "normal:mu,sigma", "feedback": "mu=power"}


@pytest.fixture
def net(place):  # noqa: F811
    """The factory's file, with weights that fit; two features, two outputs."""
    (place / "net.py").write_text(NET)
    space = {}
    exec(compile(NET, str(place / "net.py"), "exec"), space)
    torch.manual_seed(4)
    torch.save(space["Load"]().state_dict(), place / "w.pt")
    return place


def test_the_distribution_goes_into_the_archive_and_names_the_outputs(net, capsys):
    assert command.main(arguments(net, **NORMAL)) == 0
    assert "distribution: normal of mu, sigma; the prediction is mu, the mean" in capsys.readouterr().out
    assert command.main(["inspect", str(net / "store" / "load-1.0.mar")]) == 0
    assert "normal of mu, sigma; the prediction is mu, the mean" in capsys.readouterr().out
    assert command.main(["inspect", str(net / "store" / "load-1.0.mar"), "--json"]) == 0
    document = orjson.loads(capsys.readouterr().out)
    assert document["outputs"]["names"] == ["mu", "sigma"]
    assert document["distribution"] == [{"kind": "normal", "outputs": ["mu", "sigma"], "prediction": "mu", "statistic": "mean"}]


def test_a_calibration_measures_what_mase_is_relative_to(net, capsys):
    values = np.random.default_rng(1).normal(size=(60, 2))
    values[20, 0] = np.nan
    path = write_series(net / "held-out.csv", values, ("power", "temperature"))
    assert command.main(arguments(net, **NORMAL, calibrate=path, season=24)) == 0
    assert "  scores: beside the value 24 steps before in held-out.csv" in capsys.readouterr().out
    assert command.main(["inspect", str(net / "store" / "load-1.0.mar"), "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)["intervals"]
    assert found["naive"] == [pytest.approx(np.nanmean(np.abs(values[24:, 0] - values[:-24, 0])), rel=1e-4)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"arguments": '{"raw": true}'}, "normal needs sigma greater than 0, and the model gives mu"),
        ({"distribution": "cauchy:mu,sigma"}, "unknown kind 'cauchy'; known: normal, studentt, poisson, negative-binomial, quantiles"),
        ({"distribution": "normal:mu"}, "normal needs the outputs of its mean, standard deviation, got 'normal:mu'"),
        ({"outputs": "mu,b"}, "names mu, sigma, but the outputs are mu, b"),
        ({"feedback": ""}, "the mean must feed back, and nothing else: --feedback mu=FEATURE"),
        ({"feedback": "mu=power,sigma=temperature"}, "the mean must feed back, and nothing else"),
        ({"calibrate": "one-row.csv"}, "no two measurements lie 1 steps apart"),
    ],
)
def test_what_is_no_distribution_is_one_line_and_no_archive(net, more, message, capsys):
    write_series(net / "one-row.csv", np.zeros((1, 2)), ("power", "temperature"))
    options = NORMAL | {name: str(net / value) if name == "calibrate" else value for name, value in more.items()}
    assert command.main(arguments(net, **{name: value for name, value in options.items() if value})) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list((net / "store").iterdir()) == []


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_kind_is_exported(tmp_path, kind):
    model = export_spec(tmp_path, kind, spec(kind))
    [entry] = model.signature.distribution
    assert (entry["kind"], tuple(entry["outputs"])) == (kind, OUTPUTS[kind])
    assert model.signature.predictions == (entry["prediction"],)


def test_quantiles_in_the_wrong_order_are_found(tmp_path):
    declared = spec("quantiles")
    names = OUTPUTS["quantiles"]
    levels = ",".join(f"{name}={level}" for name, level in zip(reversed(names), LEVELS, strict=True))
    with pytest.raises(ParityError, match="q95 is above q5 in 100% of predictions"):
        export_spec(tmp_path, "wrong", replace(declared, card={**declared.card, "distribution": f"quantiles:{levels}"}))


THREE = ("low", "mid", "high")


def test_levels_are_those_of_the_outputs_in_their_order():
    [entry] = documents("quantiles:0.1,0.5,0.9", THREE, {"mid": "load"})
    expected = {"kind": "quantiles", "outputs": list(THREE), "levels": [0.1, 0.5, 0.9], "prediction": "mid", "statistic": "median"}
    assert entry == expected
    assert documents("quantiles:low=0.1,mid=0.5,high=0.9", THREE, {"mid": "load"}) == [expected]
    [unnamed] = documents("quantiles:0.1,0.5,0.9", ("q0.1", "q0.5", "q0.9"), {"q0.5": "load"})
    assert unnamed["prediction"] == "q0.5"


def test_several_series_have_a_distribution_each():
    outputs = ("a", "b", "rate")
    found = documents("normal:a,b; poisson:rate", outputs, {"a": "load", "rate": "calls"})
    assert [entry["prediction"] for entry in found] == ["a", "rate"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantiles:0.1,0.9", "with the median 0.5"),
        ("quantiles:0.5", "with the median 0.5"),
        ("quantiles:0.1,0.5", "and others on both sides"),
        ("quantiles:0.9,0.5,0.1", "ascend between 0 and 1"),
        ("quantiles:10,50,90", "ascend between 0 and 1"),
        ("quantiles:low,mid,high", "expected levels such as quantiles:0.1,0.5,0.9"),
        ("quantiles:", "expected levels"),
        ("normal", "normal needs the outputs"),
        ("normal:low,mid,high", "normal needs the outputs"),
        ("normal:low,mid", "each belongs to one"),
        ("normal:low,mid;poisson:mid", "each belongs to one"),
    ],
)
def test_what_cannot_be_read(text, message):
    with pytest.raises(CheckpointError, match=message):
        documents(text, THREE, {"mid": "load"})
