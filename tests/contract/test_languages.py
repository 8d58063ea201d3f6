"""One stream through every protocol: each delivery of a step is in another language, and all of them are answered with the same numbers."""

import random

import numpy as np
import pytest

from tests.conftest import answer, assert_close, make_service
from tests.support import eager
from tests.support.open_inference_client import infer, texts
from tests.support.requests import position, step

STEPS = 40


def native(service, at, x):
    reply = answer(service, step("a", at, x))
    return np.array(reply["prediction"], np.float32), reply["session"]["replayed"]


def sequence(service, at, x, binary=False):
    found = infer(service, binary, inputs={"x": x[None]}, sequence_id="a", sequence_start=at == 0, step=at)
    return found.outputs["y"][0], found.parameters["replayed"]


def raw_sequence(service, at, x):
    return sequence(service, at, x, binary=True)


def among_others(service, at, x):
    """A row of a request of many sessions, which does not say whether it was replayed."""
    found = infer(service, True, inputs={"x": np.stack([x, x]), "session": texts("a", "b"), "step": np.array([at, 999])})
    assert found.outputs["status"].tolist() == [200, 404]
    return found.outputs["y"][0], None


def instance(service, at, x):
    [reply] = answer(service, {"instances": [step("a", at, x)]})["predictions"]
    return np.array(reply["prediction"], np.float32), reply["session"]["replayed"]


LANGUAGES = [native, sequence, raw_sequence, among_others, instance]


@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_applied_once_in_whatever_languages_it_is_sent(two, seed):
    service, draw, x, at = make_service(two), random.Random(seed), two.sequence(STEPS, seed=seed), 0
    x[::3, 1] = -0.0  # which is 0, for every parser to read alike
    while at < STEPS:
        rows = x[at : at + draw.randint(1, 4)]
        deliveries = [draw.choice(LANGUAGES)(service, at, rows) for _ in range(draw.randint(1, 4))]
        (first, replayed), *repeats = deliveries
        assert replayed in (False, None)
        for again, marked in repeats:
            assert (again == first).all(), "the same numbers, to the digit"
            assert marked in (True, None)
        at += len(rows)
        assert position(service, "a") == at
    assert_close(first, eager.run(two.model, x).prediction, "the last prediction")
