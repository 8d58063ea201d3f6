"""Observations, intervals and times through both clients of the library."""

import httpx
import numpy as np
import pytest

import cellstate
from cellstate import Client
from tests.conftest import make_service
from tests.contract.test_forecasts_page import meter
from tests.support.clients import POLICY
from tests.support.host_in_memory import HostInMemory


@pytest.fixture
def host(exported, tmp_path):
    return HostInMemory("meter", make_service(meter(exported, tmp_path)))


def observed(*hours):
    return [{"time": f"2018-09-29T{hour:02}:00:00", "load": float(hour)} for hour in hours]


def test_a_stream_of_observations_is_forecast_with_intervals_and_times(client, host):
    with client.stream("meter", "a") as stream:
        stream.step(observed(1, 2))
        result = stream.forecast(2, observed(4), levels=[80, 95])
        assert stream.position == 4
    assert result.times == ["2018-09-29T05:00:00", "2018-09-29T06:00:00"]
    assert result.imputed == 1
    assert list(result.intervals) == [80, 95]
    for lower, upper in result.intervals.values():
        assert lower.shape == upper.shape == result.forecast.shape == (2, 1)
        assert (np.asarray(lower) <= result.forecast).all()
        assert (result.forecast <= np.asarray(upper)).all()
    assert "levels" not in host.documents[1], "what keeps its default is left out"


def test_a_window_of_observations_is_predicted(client):
    assert client.predict("meter", observed(1, 2)).times == ["2018-09-29T03:00:00"]


def test_a_classifier_answers_a_label_and_probabilities(exported):
    model = exported("words")
    with httpx.Client(transport=HostInMemory("words", make_service(model)).transport) as http:
        client = Client("http://cellstate.test", policy=POLICY, http=http)
        result = client.predict("words", model.sequence(4), returns=["label", "probabilities"])
    assert result.label == model.signature.outputs[int(result.probabilities.argmax())]


def test_a_description_has_the_scores(client):
    with client.stream("meter", "a") as stream:
        stream.step(observed(1, 2))
        stream.step(observed(3))
        assert stream.describe().scores["steps"] == 1


def test_what_was_not_asked_for_is_not_there(client):
    result = client.predict("meter", [[1.0], [2.0]])
    for name in ("intervals", "times"):
        with pytest.raises(cellstate.NotReturned, match=f"{name}: not in the answer"):
            getattr(result, name)
