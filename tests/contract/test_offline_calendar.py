"""Streams by name and time over nights on which clocks are set, with holes, a change of level and late data, against offline ones."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.conftest import answer, assert_close, make_service, refusal
from tests.contract.test_offline_forecasts import HORIZON, TOLERANCE
from tests.support.calibrated import calibrated, write_series
from tests.support.offline_forecasts import OfflineStream, Tables
from tests.support.requests import act

NIGHTS = [  # the zone, and an hour before its clocks are set
    ("Europe/Berlin", datetime(2024, 10, 26, 12, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2024, 3, 30, 12, tzinfo=UTC)),
    ("America/Chicago", datetime(2024, 11, 2, 18, tzinfo=UTC)),
    ("America/Chicago", datetime(2024, 3, 9, 18, tzinfo=UTC)),
]
DERIVED = {"hour": {"of": "hour"}, "rain": {"of": "weekday", "form": "sin"}}  # the features are flow, hour, rain
LENGTH, CHANGE = 90, 50  # hours, and when the level rises


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    plain = exported("step")
    path = write_series(tmp_path_factory.mktemp("series") / "flow.csv", plain.sequence(400, seed=3), ("flow", "hour", "rain"))
    return calibrated(plain, path, HORIZON)


@pytest.mark.parametrize(("zone", "start"), NIGHTS)
@pytest.mark.parametrize("with_offset", [False, True])
def test_a_weekend_on_which_clocks_are_set(model, zone, start, with_offset):
    random, place = np.random.default_rng(7), ZoneInfo(zone)
    moments = [(start + timedelta(hours=i)).astimezone(place) for i in range(LENGTH + HORIZON)]
    derived = [[moment.hour, float(np.sin(2 * np.pi * moment.weekday() / 7))] for moment in moments]
    flow = 3 + random.normal(0, 0.5, LENGTH) + np.where(np.arange(LENGTH) < CHANGE, 0, 4)
    kinds = ["value", *random.choice(["value", "null", "gap"], LENGTH - 1, p=[0.7, 0.15, 0.15])]
    signature = replace(model.signature, frequency="1h", calendar={"timezone": zone, "derived": DERIVED})
    service = make_service(replace(model, signature=signature), keep_versions=3)
    offline = OfflineStream(model.model, Tables(model.signature.intervals), per_step=True)

    def shown(i):
        """A time that occurs twice has its offset where a gap stands before it: without one it would be the first."""
        unclear = moments[i].replace(fold=0).utcoffset() != moments[i].replace(fold=1).utcoffset() and kinds[i - 1] == "gap"
        return moments[i].isoformat() if with_offset or unclear else moments[i].replace(tzinfo=None).isoformat()

    at, sent = 0, 0
    for i, kind in enumerate(kinds):
        if kind == "gap":
            continue
        value = None if kind == "null" else float(flow[i])
        rows = [[None, *derived[j]] for j in range(at, i)] + [[value, *derived[i]]]
        request = {
            "observations": [{"time": shown(i), "flow": value}],
            "session": {"id": "a", "step": at},
            "horizon": HORIZON,
            "levels": [50, 80, 95],
        }
        reply, sent = answer(service, request), sent + 1
        answered = np.ravel(reply["forecast"])
        expected = offline.step(rows, HORIZON, derived[i + 1 : i + 1 + HORIZON], (50, 80, 95), answered)
        at = i + 1
        assert reply["times"] == [moment.isoformat() for moment in moments[at : at + HORIZON]]
        assert (reply["session"]["step"], reply.get("imputed", 0)) == (at, expected["imputed"])
        assert_close(answered, expected["forecast"], "forecast", TOLERANCE)
        for level, halves in expected["intervals"].items():
            bounds = reply["intervals"][str(level)]
            assert_close((np.ravel(bounds["upper"]) - np.ravel(bounds["lower"])) / 2, halves, f"half of {level} %", TOLERANCE)
        again = answer(service, request)
        assert {**again, "session": 0} == {**reply, "session": 0}, "a retry is equal to the digit"
    found, wanted = answer(service, act("a", "describe"))["session"], offline.scores()
    assert found["time"] == moments[at - 1].isoformat()
    for name, value in wanted.items():
        assert found["scores"][name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_late_data_are_taken_in_by_a_rewind(model):
    zone, start = NIGHTS[0]
    moments = [(start + timedelta(hours=i)).astimezone(ZoneInfo(zone)).isoformat() for i in range(30)]
    signature = replace(model.signature, frequency="1h", calendar={"timezone": zone, "derived": DERIVED})
    service, flow = make_service(replace(model, signature=signature), keep_versions=9), np.random.default_rng(1).normal(3, 1, 30).tolist()

    def observe(id, at, *hours):
        return {"observations": [{"time": moments[i], "flow": flow[i]} for i in hours], "session": {"id": id, "step": at}}

    for i in (*range(12), 13, 14):  # hour 12, of the night on which clocks are set back, comes last
        answer(service, observe("a", min(i, 12) if i < 14 else 14, i))
    assert "is late: the stream is at" in refusal(service, observe("a", 15, 12))[2]["message"]
    answer(service, {"session": {"id": "a", "action": "rewind", "step": 12}})
    for i in range(12, 16):
        answer(service, observe("a", i, i))
    for i in range(16):
        answer(service, observe("b", i, i))
    late, whole = (answer(service, act(id, "describe"))["session"] for id in "ab")
    assert (late["scores"], late["time"]) == (whole["scores"], whole["time"])
