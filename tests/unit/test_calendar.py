"""Times and the features that follow from them: across daylight saving, at the edges of days and years, for several streams alike."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from handlers.errors import ConfigurationError, InvalidInput
from handlers.forecasting.calendar import Calendar, Derived

CHICAGO = "America/Chicago"


def hourly(zone="", **derived):
    return Calendar("1h", zone, derived=derived)


def one(calendar, text):
    first, last = calendar.parse(text, "time")
    assert first == last
    return first


def feature(derived, text, frequency="1h", zone=""):
    calendar = Calendar(frequency, zone, derived={"x": derived})
    return float(calendar.features([one(calendar, text)])[0, 0])


@pytest.mark.parametrize(
    ("of", "text", "number"),
    [
        ("minute", "2024-05-06T07:30:00", 30),
        ("hour", "2024-05-06T07:30:00", 7.5),
        ("weekday", "2024-05-06T00:00:00", 0),
        ("weekday", "2024-05-05T23:59:59", 6),
        ("month", "2024-12-31T00:00:00", 11),
        ("day_of_year", "2024-12-31T00:00:00", 365),
        ("day_of_year", "2023-01-01T00:00:00", 0),
    ],
)
def test_a_quantity_of_a_time(of, text, number):
    assert feature(Derived(of), text) == number


@pytest.mark.parametrize(("of", "period"), [("minute", 60), ("hour", 24), ("weekday", 7), ("month", 12), ("day_of_year", 366)])
def test_a_cycle_is_sine_and_cosine_of_its_angle(of, period):
    text = "2024-05-08T07:30:00"
    angle = 2 * np.pi * feature(Derived(of), text) / period
    assert feature(Derived(of, "sin"), text) == np.float32(np.sin(angle))
    assert feature(Derived(of, "cos"), text) == np.float32(np.cos(angle))


def test_a_shift_looks_so_many_steps_ahead():
    assert feature(Derived("hour", shift=2), "2024-05-06T23:00:00") == 1
    assert feature(Derived("hour", shift=-1), "2024-05-06T00:00:00", "30min") == 23.5


@pytest.mark.parametrize(
    ("day", "expected"),
    [("2018-01-01", 1), ("2018-01-02", 0), ("2016-12-26", 1), ("2021-12-31", 1), ("2018-10-08", 0), ("2018-11-22", 1)],
    ids=["New Year", "a day after", "Christmas observed", "New Year observed in the year before", "left out", "Thanksgiving"],
)
def test_a_holiday_is_a_whole_day(day, expected):
    derived = Derived("holiday", country="US", without=("Columbus Day", "Veterans Day"))
    assert [feature(derived, f"{day}T{hour}") for hour in ("00:00:00", "23:59:59")] == [expected, expected]


def test_holidays_of_a_part_of_a_country():
    texts = ("2024-01-06", "2024-10-03")  # Epiphany in Bavaria, German Unity Day everywhere
    assert [feature(Derived("holiday", country="DE", subdivision="BY"), text) for text in texts] == [1, 1]
    assert [feature(Derived("holiday", country="DE"), text) for text in texts] == [0, 1]


class TestDaylightSaving:
    def test_hours_are_equally_long_and_local_in_their_features(self):
        calendar = hourly(CHICAGO, hour=Derived("hour"))
        start = one(calendar, "2018-11-03T22:00:00")
        hours = calendar.features(calendar.following(start, 30))[:, 0].tolist()
        began, zone = datetime(2018, 11, 4, 3, tzinfo=ZoneInfo("UTC")), ZoneInfo(CHICAGO)
        assert hours == [(began + timedelta(hours=i + 1)).astimezone(zone).hour for i in range(30)]
        assert hours[:6] == [23, 0, 1, 1, 2, 3]

    def test_an_hour_that_occurs_twice_has_two_readings(self):
        first, last = hourly(CHICAGO).parse("2018-11-04T01:00:00", "time")
        assert last - first == 3600
        assert one(hourly(CHICAGO), "2018-11-04T01:00:00-05:00") == first
        assert one(hourly(CHICAGO), "2018-11-04T07:00:00Z") == last
        assert hourly(CHICAGO).format(first) == "2018-11-04T01:00:00-05:00"
        assert hourly(CHICAGO).format(last) == "2018-11-04T01:00:00-06:00"

    def test_an_hour_that_does_not_occur_is_refused(self):
        with pytest.raises(InvalidInput) as caught:
            hourly(CHICAGO).parse("2018-03-11T02:30:00", "time")
        assert str(caught.value) == (
            "time: '2018-03-11T02:30:00' does not occur in America/Chicago: clocks are set forward over it. Send the time that clocks "
            "show, 2018-03-11T03:30:00-05:00, or the offset of the clock that showed this one"
        )
        assert one(hourly(CHICAGO), "2018-03-11T02:30:00-06:00") == one(hourly(CHICAGO), "2018-03-11T03:30:00")
        calendar = hourly(CHICAGO)
        assert one(calendar, "2018-03-11T03:00:00") - one(calendar, "2018-03-11T01:00:00") == 3600

    def test_a_day_is_a_step_however_long_it_is(self):
        calendar = Calendar("1D", CHICAGO, derived={"weekday": Derived("weekday")})
        days = calendar.following(one(calendar, "2018-11-02"), 4)
        assert [calendar.format(day) for day in days] == [f"2018-11-0{day}T00:00:00" for day in (3, 4, 5, 6)]
        assert calendar.features(days)[:, 0].tolist() == [5, 6, 0, 1]

    def test_without_a_time_zone_there_is_none(self):
        calendar = hourly()
        assert one(calendar, "2018-03-11T02:30:00") - one(calendar, "2018-03-11T01:30:00") == 3600
        assert calendar.format(one(calendar, "2018-11-04T01:00:00")) == "2018-11-04T01:00:00"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("america/chicago", "unknown 'america/chicago'; did you mean 'America/Chicago'?"),
        ("Europe/Berln", "unknown 'Europe/Berln'; did you mean 'Europe/Berlin'?"),
        ("America/New York", "did you mean 'America/New_York'?"),
        ("Mars/Olympus", "unknown 'Mars/Olympus'"),
        ("PST", "unknown 'PST'; expected a name such as \"America/Chicago\""),
        ("+02:00", 'Two hours ahead of UTC all year is "Etc/GMT-2"'),
        ("EST", "'EST' stands for five hours behind UTC all year, which clocks in America/New_York show in winter only; name the place"),
        ("CET", "'CET' stands for the time of many places, such as Europe/Berlin; name the place"),
        ("localtime", "'localtime' stands for whatever zone a machine is in; name the place"),
        (3, "unknown 3"),
        (["UTC"], "cannot be read"),
    ],
)
def test_a_time_zone_that_is_unknown_or_could_be_several(name, message):
    with pytest.raises(ConfigurationError) as caught:
        Calendar.from_document({"timezone": name}, "1h")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["UTC", "Etc/GMT-2", "Europe/Berlin", "Japan"])
def test_time_zones(name):
    assert Calendar("1h", name).timezone == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yesterday", "expected a time"),
        ("2018-13-01", "expected a time"),
        ("2018-09-29T23:00:00.5", "whole seconds"),
        ("0001-01-01", "years 1900 to 2200"),
        ("9999-12-31T23:00:00", "years 1900 to 2200"),
        ("2018-09-29T23:00:00Z", "without a time zone"),
    ],
)
def test_what_is_no_time_is_refused(text, message):
    with pytest.raises(InvalidInput, match=rf"observations\[0\]\.time: .*{message}"):
        hourly().parse(text, "observations[0].time")


@pytest.mark.parametrize(
    ("document", "frequency", "message"),
    [
        ({}, "", "frequency"),
        ({}, "0h", "frequency"),
        ({}, "1month", "frequency"),
        ({"timezone": "Mars/Olympus"}, "1h", "timezone"),
        ({"timezone": "../etc"}, "1h", "timezone"),
        ({"gaps": "guess"}, "1h", "gaps"),
        ({"zone": ""}, "1h", "cannot be read"),
        ({"derived": {"x": {"of": "moon"}}}, "1h", r"derived\.x"),
        ({"derived": {"x": {"of": "hour", "form": "tan"}}}, "1h", r"derived\.x"),
        ({"derived": {"x": {"of": "holiday"}}}, "1h", r"derived\.x"),
        ({"derived": {"x": {"of": "holiday", "country": "Atlantis"}}}, "1h", "Atlantis"),
        ({"derived": {"x": {"of": "hour", "phase": 1}}}, "1h", "unknown field 'phase'"),
        ({"derived": {"x": 3}}, "1h", "cannot be read"),
    ],
)
def test_a_calendar_that_is_wrong_refuses_to_start(document, frequency, message):
    with pytest.raises(ConfigurationError, match=message):
        Calendar.from_document(document, frequency)


@pytest.mark.parametrize("zone", ["", CHICAGO])
def test_a_stream_without_end_does_not_leave_the_calendar(zone):
    calendar = Calendar("1000W", zone, derived={"x": Derived("holiday", country="US", shift=1), "y": Derived("day_of_year", "sin")})
    times = calendar.following(one(calendar, "2200-12-31T00:00:00"), 1_000)
    assert np.isfinite(calendar.features(times)).all()
    assert calendar.format(times[-1]).startswith("9999-12-")
