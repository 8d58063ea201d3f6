"""Whatever the exporter accepts is the unmodified module in the service: alone, in mixed batches, in sessions cut at random."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.errors import ExportError
from export.lift.lifted import lift
from export.packaging.model_spec import ModelSpec
from export.verify import parity, streaming
from export.writers import torch_export
from tests.conftest import BACKENDS, answer, ask, assert_close, left_out
from tests.contract.test_lifted_models import served_by_all
from tests.support.changed_states import CHANGES, KINDS, RARE, ChangedState
from tests.support.hard_models import HARD

LENGTHS = (23, 9, 14)  # of the rows that meet in a batch


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    """The grid of a build, with less of the same."""
    monkeypatch.setattr(torch_export, "write_program", left_out)
    for name, value in {"BATCHES": (1, 3), "STEPS": (1, 2, 19), "LONG": 60, "CUTS": 2}.items():
        monkeypatch.setattr(parity, name, value)
    monkeypatch.setattr(streaming, "LONG", 1500)


def check_served(service, signature, model, lifted, seed):
    """Compare the service with the unmodified module on inputs beyond the example's."""
    generator = torch.Generator().manual_seed(seed)
    steps = [max(n, signature.min_steps) for n in LENGTHS]
    rows = [lifted.sampler.widened(3, n, generator)[i : i + 1] for i, n in enumerate(steps)]
    expected = [lifted.unmodified(model, x)[0].numpy() for x in rows]
    for (status, reply), y in zip(ask(service, *({"inputs": x[0].tolist()} for x in rows)), expected, strict=True):
        assert status == 200, reply
        assert_close(reply["prediction"], y, "in a batch of others")
    assert_close(answer(service, {"inputs": rows[1][0].tolist()})["prediction"], expected[1], "alone")
    if signature.streaming:
        check_sessions(service, signature, rows, expected, np.random.default_rng(seed))


def check_sessions(service, signature, rows, expected, random):
    """Send the rows as sessions, in turns, in pieces of random lengths."""
    positions, got = [0] * len(rows), [[] for _ in rows]
    while any(position < x.shape[1] for position, x in zip(positions, rows, strict=True)):
        for i, x in enumerate(rows):
            stop = min(x.shape[1], positions[i] + int(random.integers(1, 8)))
            if stop > positions[i]:
                inputs = x[0, positions[i] : stop].tolist()
                got[i].append(answer(service, {"inputs": inputs, "session": {"id": f"s{i}", "step": positions[i]}})["prediction"])
                positions[i] = stop
    for pieces, y in zip(got, expected, strict=True):
        assert_close(np.concatenate(pieces) if signature.output_mode == "step" else pieces[-1], y, "a session in pieces")


@pytest.mark.parametrize("name", HARD)
def test_a_hard_model_is_right_in_the_service_or_refused_with_the_reason(name, tmp_path):
    torch.manual_seed(3)
    hard = HARD[name]
    model, example = hard.make().eval(), hard.example()
    spec = ModelSpec(name="hard", version="1.0", factory="hard.py:model", task="regress", tokens=hard.tokens)
    if hard.fate not in ("streams", "whole"):
        with pytest.raises(ExportError, match=hard.fate) as caught:
            served_by_all(model, spec, example, tmp_path)
        assert len(str(caught.value)) < 700
        return
    signature, services = served_by_all(model, spec, example, tmp_path)
    assert signature.streaming == (hard.fate == "streams"), signature.streaming_reason
    assert set(services) == ({"torchscript"} if name == "a form that ONNX freezes" else set(BACKENDS))
    lifted = lift(model, example, hard.tokens)
    for service in services.values():
        check_served(service, signature, model, lifted, seed=5)


@settings(max_examples=4, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(KINDS), st.sampled_from(CHANGES), st.sampled_from(("zeros", "learned")), st.booleans(), st.booleans())
def test_a_generated_model_that_changes_its_state_is_right_in_the_service(tmp_path_factory, kind, change, start, after, per_step):
    torch.manual_seed(3)
    model = ChangedState(kind, change, start, after, per_step).eval()
    spec = ModelSpec(name="drawn", version="1.0", factory="drawn.py:model", task="regress")
    signature, services = served_by_all(model, spec, model.example(), tmp_path_factory.mktemp("drawn"))
    assert signature.streaming, signature.streaming_reason
    lifted = lift(model, model.example())
    assert any(bound >= RARE for bound in lifted.sampler.thresholds) or "gap" not in change or "decay" in change
    for service in services.values():
        check_served(service, signature, model, lifted, seed=6)
