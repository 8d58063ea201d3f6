"""Scores of a session's own predictions in `describe` and as metrics: exact under retries, what-ifs, forks and rewinds."""

import numpy as np
import pytest

from handlers.metrics import Telemetry
from tests.conftest import answer, make_service
from tests.contract.test_intervals import meter  # noqa: F401  # a fixture
from tests.support.requests import act, step


@pytest.fixture
def telemetry():
    return Telemetry()


@pytest.fixture
def service(meter, telemetry):  # noqa: F811
    return make_service(meter, telemetry=telemetry, keep_versions=3)


@pytest.fixture
def x(meter):  # noqa: F811
    return meter.sequence(30, seed=5)


def scores(service, id="a"):
    return answer(service, act(id, "describe"))["session"]["scores"]


def streamed(service, x, first=0):
    return [answer(service, step("a", first + t, x[t : t + 1]))["prediction"][0] for t in range(len(x))]


def test_a_session_scores_what_it_predicted(service, x):
    predictions = streamed(service, x)
    errors = np.array(predictions[:-1]) - x[1:, 0].astype(np.float64)
    found = scores(service)
    assert found["steps"] == 29
    assert found["mae"] == pytest.approx([np.abs(errors).mean()], rel=1e-6)
    assert found["bias"] == pytest.approx([errors.mean()], rel=1e-5)
    assert 0 <= found["coverage"]["80"] <= 100
    assert found["drift"] is False


def test_of_a_request_with_several_steps_the_first_is_scored(service, x):
    answer(service, step("a", 0, x[:4]))
    answer(service, step("a", 4, x[4:9]))
    assert scores(service)["steps"] == 1


def test_what_is_missing_is_not_scored(service, x):
    streamed(service, x[:3])
    before = scores(service)
    answer(service, {"inputs": [None], "session": {"id": "a", "step": 3}})
    assert scores(service) == before


def test_retries_and_what_ifs_score_nothing(service, x):
    streamed(service, x[:3])
    before = scores(service)
    answer(service, step("a", 2, x[2:3]))
    answer(service, step("a", 3, x[3:4], commit=False))
    assert scores(service) == before


def test_a_fork_has_the_scores_of_its_source_and_a_rewind_those_of_then(service, x):
    streamed(service, x[:4])
    then = scores(service)
    answer(service, act("a", "fork", to="b"))
    assert scores(service, "b") == then
    streamed(service, x[4:6], 4)
    answer(service, {"session": {"id": "a", "action": "rewind", "step": 4}})
    assert scores(service) == then


def test_a_drift_is_flagged_and_counted(service, telemetry, x):
    streamed(service, x[:20])
    streamed(service, x[:15] * 10, 20)
    found = scores(service)
    assert (found["drift"], found["drifts"]) == (True, 1)
    counted = {sample.name: sample.value for sample in telemetry.take()}
    assert counted["cellstate_drifts_total"] == 1
    assert counted["cellstate_predictions_scored_total"] == found["steps"]
    assert counted["cellstate_predictions_covered_total"] == round(found["coverage"]["80"] * found["steps"] / 100)


def test_a_model_that_was_not_calibrated_has_none(exported, x):
    service = make_service(exported("one"))
    streamed(service, x[:2])
    assert "scores" not in answer(service, act("a", "describe"))["session"]
