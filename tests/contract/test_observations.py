"""Observations by name and time: the inputs that an offline run would make of them, gaps filled, late data refused with what to do."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from handlers.errors import ConfigurationError
from tests.conftest import BACKENDS, answer, ask, assert_close, make_service, refusal
from tests.contract.test_missing import filled
from tests.support import eager
from tests.support.requests import act, raw

DERIVED = {"hour": {"of": "hour"}, "rain": {"of": "weekday", "form": "sin"}}  # the features are flow, hour, rain
START = datetime(2018, 9, 29, 20)


def with_calendar(two, frequency="1h", **calendar):
    return replace(two, signature=replace(two.signature, frequency=frequency, calendar={"derived": DERIVED} | calendar))


@pytest.fixture
def timed(two):
    """The model with a calendar that derives all but what feeds back."""
    return with_calendar(two)


@pytest.fixture
def service(timed):
    return make_service(timed, keep_versions=3)


FLOW = np.random.default_rng(0).normal(3, 0.5, 40).astype(np.float32)


def inputs(hours):
    """The rows that an offline run feeds, from the first hour on."""
    moments = [START + timedelta(hours=hour) for hour in hours]
    rows = [[FLOW[hour], moment.hour, np.sin(2 * np.pi * moment.weekday() / 7)] for hour, moment in zip(hours, moments, strict=True)]
    return np.array(rows, np.float32)


def seen(*hours, missing=()):
    """Observations of those hours after the start."""
    return [{"time": (START + timedelta(hours=hour)).isoformat(), "flow": None if hour in missing else float(FLOW[hour])} for hour in hours]


def observe(at, *hours, id="a", missing=(), **more):
    return {"observations": seen(*hours, missing=missing), "session": {"id": id, "step": at}} | more


def expected(two, hours, missing=()):
    x = inputs(hours)
    x[[hours.index(hour) for hour in missing], 0] = np.nan
    return filled(two.model, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_observations_are_the_inputs_that_the_calendar_makes_of_them(two, timed, backend):
    service = make_service(timed, backend)
    reply = answer(service, observe(0, *range(5)))
    assert_close(reply["prediction"], eager.run(two.model, inputs(range(5))).prediction, "prediction")
    assert reply["times"] == ["2018-09-30T01:00:00"]
    assert reply["session"]["step"] == 5


def test_a_forecast_needs_no_future_where_all_is_derived_and_tells_its_times(two, service):
    reply = answer(service, observe(0, *range(5), horizon=6))
    assert_close(reply["forecast"], eager.rollout(two.model, inputs(range(5)), 6, inputs(range(5, 11))[:, 1:]), "forecast")
    assert reply["times"] == [(START + timedelta(hours=hour)).isoformat() for hour in range(5, 11)]


def test_a_model_with_other_features_takes_those_by_name_and_their_future(two):
    service = make_service(with_calendar(two, derived={"hour": {"of": "hour"}}))
    x = two.sequence(5)
    x[:, 1] = [(START + timedelta(hours=hour)).hour for hour in range(5)]
    observations = [{"time": o["time"], "flow": float(row[0]), "rain": float(row[2])} for o, row in zip(seen(*range(5)), x, strict=True)]
    reply = answer(service, {"observations": observations[:3], "horizon": 2, "future": x[3:, 2:].tolist()})
    assert_close(reply["forecast"], eager.rollout(two.model, x[:3], 2, x[3:, 1:]), "forecast")
    assert "lists of 1 numbers (rain)" in refusal(service, {"observations": observations, "horizon": 2})[2]["message"]
    del observations[1]["rain"]
    assert "observations[1].rain: missing" in refusal(service, {"observations": observations})[2]["message"]
    assert "rain cannot be filled" in refusal(service, {"observations": [observations[0], observations[3]]})[2]["message"]


def test_inputs_go_on_working_and_the_time_goes_on_with_them(two, service):
    answer(service, observe(0, 0, 1))
    reply = answer(service, {"inputs": inputs([2]).tolist(), "session": {"id": "a", "step": 2}})
    assert reply["times"] == ["2018-09-29T23:00:00"]
    assert_close(answer(service, observe(3, 3))["prediction"], eager.run(two.model, inputs(range(4))).prediction, "prediction")
    assert "times" not in answer(service, {"inputs": inputs([0]).tolist()}), "a window of inputs has no time"


class TestGaps:
    def test_what_was_not_observed_is_imputed(self, two, service):
        answer(service, observe(0, 0, 1))
        reply = answer(service, observe(2, 4, 5, 7))
        assert (reply["session"]["step"], reply["imputed"]) == (8, 3)
        assert_close(reply["prediction"], eager.run(two.model, expected(two, list(range(8)), (2, 3, 6))).prediction, "prediction")

    def test_a_gap_and_nulls_are_the_same(self, two, service):
        gap = answer(service, {"observations": seen(0, 1, 4)})
        nulls = answer(service, {"observations": seen(*range(5), missing=(2, 3))})
        assert gap == nulls

    def test_a_gap_is_limited(self, two, timed):
        service = make_service(timed, max_imputed=2)
        answer(service, observe(0, 0))
        error = refusal(service, observe(1, 4))[2]
        assert "3 steps of 1h are missing between 2018-09-29T20:00:00 and 2018-09-30T00:00:00, at most 2" in error["message"]
        answer(service, observe(1, 3))

    def test_gaps_are_refused_where_the_model_says_so(self, two):
        service = make_service(with_calendar(two, gaps="refuse"))
        assert "takes no gaps" in refusal(service, {"observations": seen(0, 2)})[2]["message"]
        answer(service, {"observations": seen(0, 1, 2, missing=(1,))})

    def test_a_gap_counts_to_the_steps_of_a_request(self, two, timed):
        error = refusal(make_service(timed, max_steps=3), {"observations": seen(0, 4)})
        assert error[:2] == (413, "too_large")

    def test_a_gap_is_counted_on_from_what_was_missing_before(self, two, timed):
        service = make_service(timed, max_imputed=3)
        answer(service, observe(0, 0, 1, 2, missing=(1, 2)))
        assert "4 steps in a row" in refusal(service, observe(3, 5))[2]["message"]
        answer(service, observe(3, 4))


class TestLateData:
    @pytest.mark.parametrize(
        ("hours", "message"), [((2,), "was observed already"), ((1,), "is late: the stream is at 2018-09-29T22:00:00")]
    )
    def test_what_is_late_is_refused_and_told_what_to_do(self, service, hours, message):
        answer(service, observe(0, 0, 1, 2))
        status, code, error = refusal(service, observe(3, *hours))
        assert (status, code) == (422, "invalid_input")
        assert message in error["message"]

    @pytest.mark.parametrize("hours", [(0, 0), (1, 0)])
    def test_the_same_within_one_request(self, service, hours):
        assert "observations[1].time" in refusal(service, {"observations": seen(*hours)})[2]["message"]

    def test_off_the_grid(self, service):
        answer(service, observe(0, 0))
        observation = {"time": "2018-09-29T21:30:00", "flow": 3}
        error = refusal(service, {"observations": [observation], "session": {"id": "a", "step": 1}})[2]
        assert "not a multiple of 1h after 2018-09-29T20:00:00" in error["message"]

    def test_a_rewind_takes_late_data_in(self, two, service):
        answer(service, observe(0, 0, 1))
        answer(service, observe(2, 3))  # hour 2 is imputed
        answer(service, {"session": {"id": "a", "action": "rewind", "step": 2}})
        reply = answer(service, observe(2, 2, 3))
        assert_close(reply["prediction"], eager.run(two.model, inputs(range(4))).prediction, "prediction")


class TestRepeats:
    def test_a_retry_is_answered_byte_for_byte(self, service):
        answer(service, observe(0, 0))
        first, again = (raw(service, observe(1, 3, horizon=2)) for _ in range(2))
        assert again == first.replace(b'"replayed":false', b'"replayed":true')
        assert b'"times":["2018-09-30T00:00:00","2018-09-30T01:00:00"]' in first

    def test_a_retry_at_another_time_is_no_retry(self, service):
        answer(service, observe(0, 0))
        answer(service, observe(1, 1))
        other = observe(1, 1)
        other["observations"][0]["time"] = "2018-09-29T22:00:00"
        assert refusal(service, other)[1] == "step_conflict"

    def test_a_retry_after_the_last_step_that_closed_the_session(self, service):
        answer(service, observe(0, 0))
        first = answer(service, observe(1, 1))
        answer(service, act("a", "close"))
        again = answer(service, observe(1, 1))
        assert again["times"] == first["times"]

    def test_a_what_if_leaves_the_time_where_it_was(self, service):
        answer(service, observe(0, 0))
        what_if = answer(service, observe(1, 5, commit=False))
        assert what_if["times"] == ["2018-09-30T02:00:00"]
        assert answer(service, observe(1, 1))["times"] == ["2018-09-29T22:00:00"]

    def test_a_fork_has_the_time_of_its_source(self, service):
        answer(service, observe(0, 0, 1))
        answer(service, act("a", "fork", to="b"))
        assert "was observed already" in refusal(service, observe(2, 1, id="b"))[2]["message"]
        answer(service, observe(2, 2, id="b"))


def test_a_weekend_on_which_clocks_are_set_back(two):
    """The hour from 1 to 2 occurs twice; the names of the hours are enough, since a stream knows which one it has seen."""
    service = make_service(with_calendar(two, timezone="America/Chicago"))
    names = ["2018-11-04T00:00:00", "2018-11-04T01:00:00", "2018-11-04T01:00:00", "2018-11-04T02:00:00"]
    hours, weekday = [0, 1, 1, 2], np.sin(2 * np.pi * 6 / 7)
    x = np.array([[FLOW[i], hour, weekday] for i, hour in enumerate(hours)], np.float32)
    for at, name in enumerate(names):
        request = {"observations": [{"time": name, "flow": float(FLOW[at])}], "session": {"id": "a", "step": at}}
        reply = answer(service, request)
    assert_close(reply["prediction"], eager.run(two.model, x).prediction, "prediction")
    assert reply["times"] == ["2018-11-04T03:00:00-06:00"]


class TestTheHourThatOccursTwice:
    """Of Chicago and of Berlin: without an offset it is the first reading that follows the stream, with one it is exact."""

    @pytest.fixture(
        params=[
            ("America/Chicago", "2018-11-04T01:{}:00", "-05:00", "-06:00"),
            ("Europe/Berlin", "2018-10-28T02:{}:00", "+02:00", "+01:00"),
        ]
    )
    def night(self, request, two):
        zone, hour, *offsets = request.param
        return make_service(with_calendar(two, "30min", timezone=zone, gaps="refuse")), zone, hour, *offsets

    def send(self, at, *times):
        return {"observations": [{"time": time, "flow": 3} for time in times], "session": {"id": "a", "step": at}}

    def test_a_stream_begins_with_the_first_reading_or_with_the_offset(self, night):
        service, _, hour, first, second = night
        reply = answer(service, {"observations": [{"time": hour.format("00"), "flow": 3}], "horizon": 1})
        assert reply["times"] == [hour.format("30") + first]
        reply = answer(service, {"observations": [{"time": hour.format("00") + second, "flow": 3}], "horizon": 1})
        assert reply["times"] == [hour.format("30") + second]

    def test_all_of_it_without_offsets(self, night):
        service, _, hour, _, second = night
        reply = answer(service, self.send(0, *[hour.format(minute) for minute in ("00", "30", "00", "30")]))
        assert reply["session"]["step"] == 4
        described = answer(service, act("a", "describe"))["session"]
        assert described["time"] == hour.format("30") + second

    def test_what_does_not_follow_is_told_that_its_offset_makes_it_exact(self, night):
        service, zone, hour, first, second = night
        hint = f"{hour.format('00')} occurs twice in {zone}: send it with its offset, {first} or {second}"
        answer(service, self.send(0, hour.format("00")))
        gap = refusal(service, self.send(1, hour.format("00")))[2]["message"]
        assert "1 steps of 30min are missing" in gap, "taken for the second reading"
        assert gap.endswith(hint)
        duplicate = refusal(service, self.send(1, hour.format("00") + first))[2]["message"]
        assert "was observed already" in duplicate
        assert "occurs twice" not in duplicate
        answer(service, self.send(1, *[hour.format(minute) for minute in ("30", "00", "30")]))
        late = refusal(service, self.send(4, hour.format("00")))[2]["message"]
        assert "is late" in late
        assert late.endswith(hint)


class TestRefusals:
    def test_a_model_without_a_calendar_knows_no_times(self, two):
        assert "declares no calendar" in refusal(make_service(two), {"observations": seen(0)})[2]["message"]

    @pytest.mark.parametrize(
        ("observations", "message"),
        [
            ([], "expected a list such as"),
            ({"time": "2018-09-29"}, "expected a list such as"),
            ([[3]], "observations[0]: expected an object"),
            ([{"flow": 3}], "observations[0].time: expected a time"),
            ([{"time": 5, "flow": 3}], "observations[0].time: expected a time"),
            ([{"time": "noon", "flow": 3}], "observations[0].time: expected a time"),
            ([{"time": "2018-09-29", "flow": "3"}], "observations[0].flow: expected a number or null, got a string"),
            ([{"time": "2018-09-29", "flow": True}], "observations[0].flow: expected a number or null, got true"),
            ([{"time": "2018-09-29", "flow": 1e39}], "observations[0][0]: 1e+39 is beyond"),
        ],
    )
    def test_what_is_no_observation(self, service, observations, message):
        status, _, error = refusal(service, {"observations": observations})
        assert status == 422
        assert message in error["message"]

    def test_a_name_that_is_none(self, service):
        assert "did you mean 'flow'" in refusal(service, {"observations": [{"time": "2018-09-29", "flo": 3}]})[2]["message"]

    def test_both_forms_at_once(self, service):
        assert "one or the other" in refusal(service, {"observations": seen(0), "inputs": inputs([0]).tolist()})[2]["message"]

    def test_a_row_fails_alone(self, service):
        replies = ask(service, observe(0, 0, id="a"), observe(0, 1, 0, id="b"), observe(0, 0, id="c"))
        assert [status for status, _ in replies] == [200, 422, 200]

    def test_a_calendar_that_derives_what_feeds_back_refuses_to_start(self, two):
        with pytest.raises(ConfigurationError, match=r"'flow' is not a feature of two-1\.0, or feeds back"):
            make_service(with_calendar(two, derived={"flow": {"of": "hour"}}))
