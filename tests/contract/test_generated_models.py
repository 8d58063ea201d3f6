"""Accepted implies right: generated models, through the service, are the unmodified module on both backends, or are refused.

`GENERATED=200 pytest tests/contract/test_generated_models.py` draws 200 models of each family instead of a few.
"""

import copy
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.errors import ExportError
from export.packaging.model_spec import ModelSpec
from export.verify import parity, streaming
from export.writers import torch_export
from tests.conftest import ask, assert_close, left_out
from tests.contract.test_lifted_models import served_by_all
from tests.support.generated_models import FAMILIES

EXAMPLES = int(os.environ.get("GENERATED", "2"))
LENGTHS = (1, 5, 16, 31, 75, 141, 705)


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    """The grid of a build, with less of the same."""
    monkeypatch.setattr(torch_export, "write_program", left_out)
    for name, value in {"BATCHES": (1, 3), "STEPS": (1, 2, 19), "LONG": 60, "CUTS": 2, "LENGTHS": (100, 512, 1_100)}.items():
        monkeypatch.setattr(parity, name, value)
    monkeypatch.setattr(streaming, "LONG", 1_500)


def reference(model, values):
    """Return what a new copy of the unmodified module answers, `[O]` or `[T, O]`, for the columns of one row."""
    x = torch.from_numpy(np.asarray(values))[None]
    with torch.no_grad():
        y = copy.deepcopy(model)(*model.arguments(x))
    return (y[0] if isinstance(y, tuple) else y)[0].numpy()


def check_answer(status, reply, model, values, where):
    """Check one answer: right, or refused for what the exporter did not measure, as another length."""
    expected = reference(model, values) if status == 200 else None
    assert status in (200, 422), reply
    if expected is not None:
        assert_close(np.reshape(reply["prediction"], expected.shape), expected, where)


def check_windows(service, model, random):
    """Send windows alone and in one batch."""
    windows = [model.columns(random, n) for n in LENGTHS]
    alone = [ask(service, {"inputs": values.tolist()})[0] for values in windows]
    together = ask(service, *({"inputs": values.tolist()} for values in windows))
    for where, answers in (("alone", alone), ("in a batch", together)):
        for (status, reply), values in zip(answers, windows, strict=True):
            check_answer(status, reply, model, values, f"{where}, {len(values)} steps")
    assert any(status == 200 for status, _ in alone), alone


def check_sessions(service, signature, model, random):
    """Send three streams in turns, in pieces of random lengths, and compare each with the module on the whole."""
    streams, positions, got = [model.columns(random, n) for n in (40, 25, 60)], [0, 0, 0], [[], [], []]
    while any(p < len(values) for p, values in zip(positions, streams, strict=True)):
        for i, values in enumerate(streams):
            piece = values[positions[i] : positions[i] + int(random.integers(1, 9))]
            if len(piece):
                session = {"id": f"s{i}", "step": positions[i]}
                [(status, reply)] = ask(service, {"inputs": piece.tolist(), "session": session})
                assert status == 200, reply
                got[i].append(reply["prediction"])
                positions[i] += len(piece)
    for pieces, values in zip(got, streams, strict=True):
        expected, found = reference(model, values), np.concatenate(pieces) if signature.output_mode == "step" else pieces[-1]
        assert_close(np.reshape(found, expected.shape), expected, "a session in pieces")


def refusal(model, place):
    """Check the model in the service if it is accepted; return the message if it is refused."""
    spec = ModelSpec(name="drawn", version="1.0", factory="drawn.py:model", task="regress", tokens=model.tokens)
    try:
        signature, services = served_by_all(model, spec, model.example(), place)
    except ExportError as e:
        return str(e)
    for service in services.values():
        random = np.random.default_rng(5)
        check_windows(service, model, random)
        if signature.streaming:
            check_sessions(service, signature, model, random)
    return ""


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@given(st.data())
def test_what_is_accepted_is_right(family, tmp_path_factory, data):
    drawn = data.draw(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in family.options.items()}))
    torch.manual_seed(3)
    message = refusal(family(**drawn).eval(), tmp_path_factory.mktemp("drawn"))
    assert "\n" not in message
    assert len(message) < 700
