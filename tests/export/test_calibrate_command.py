"""`python -m export build --calibrate`: the archive knows how far its forecasts are off, or is not made."""

import numpy as np
import orjson
import pyarrow.csv
import pyarrow.parquet
import pytest

from export import __main__ as command
from tests.export.test_command import arguments, place  # noqa: F401  # a fixture
from tests.support.calibrated import write_series

NAMES = ("power", "temperature")
MODEL = {"features": "power,temperature", "outputs": "next", "feedback": "next=power"}


@pytest.fixture
def series(place):  # noqa: F811
    values = np.random.default_rng(1).normal(size=(300, 2))
    values[[20, 21, 150], 0] = np.nan
    return write_series(place / "held-out.csv", values, NAMES)


def signature(place, capsys):  # noqa: F811
    capsys.readouterr()
    assert command.main(["inspect", str(place / "store" / "load-1.0.mar"), "--json"]) == 0
    return orjson.loads(capsys.readouterr().out)


def test_the_errors_of_the_forecasts_go_into_the_archive(place, series, capsys):  # noqa: F811
    assert command.main(arguments(place, calibrate=series, horizon=5, **MODEL)) == 0
    assert "intervals: from 220 forecasts of held-out.csv; those of its first half for 80 % cover" in capsys.readouterr().out
    intervals = signature(place, capsys)["intervals"]
    assert np.array(intervals["quantiles"]).shape == (1, len(intervals["levels"]), 5)
    assert np.array(intervals["scales"]).shape == (1, 5, len(intervals["edges"][0]) + 1)


def test_parquet_measures_what_csv_does(place, series, capsys):  # noqa: F811
    parquet = series.with_suffix(".parquet")
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(series), parquet)
    found = []
    for path in (series, parquet):
        assert command.main([*arguments(place, calibrate=path, horizon=5, **MODEL), "--replace"]) == 0
        found.append(signature(place, capsys)["intervals"])
    assert found[1] == {**found[0], "series": "held-out.parquet"}


CALENDAR = {"calendar": '{"timezone": "America/Chicago", "derived": {"temperature": {"of": "hour"}}}', "frequency": "1h"}


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("power,temp\n1,2\n", {}, "bad.csv: no column 'temperature'; its columns are 'power', 'temp'"),
        ("power,temperature\n1,2\n1,hot\n", {}, "bad.csv:3: temperature: expected a number or nothing, got 'hot'"),
        ("power,temperature\n1,2\n1\n", {}, "bad.csv:3: 1 cells, the header has 2"),
        ("power\n1\n", CALENDAR, "bad.csv: no column 'time'; its columns are 'power'"),
        ("time,power\n2024-03-09T00:00,1\nnoon,2\n", CALENDAR, "bad.csv:3: time: expected a time such as 2018-09-29T23:00:00, got 'noon'"),
        ("time,power\n2024-03-10T02:30,1\n", CALENDAR, "bad.csv:2: time: '2024-03-10T02:30' does not occur in America/Chicago"),
        (
            "time,power\n2024-03-10T01:00,1\n2024-03-10T01:00,2\n",
            CALENDAR,
            "bad.csv:3: time: 2024-03-10T01:00:00-06:00 was observed already",
        ),
        ("series,power,temperature\na,1,2\nb,1,2\n", {}, "bad.csv: 2 series in column 'series'; calibrate takes one"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_line_and_column(place, text, more, message, capsys):  # noqa: F811
    (place / "bad.csv").write_text(text)
    assert command.main(arguments(place, calibrate=place / "bad.csv", **MODEL, **more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_calendar_goes_into_the_archive(place, capsys):  # noqa: F811
    calendar = '{"derived": {"temperature": {"of": "hour"}}}'
    assert command.main(arguments(place, calendar=calendar, frequency="1h", **MODEL)) == 0
    assert signature(place, capsys)["calendar"] == orjson.loads(calendar)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"calibrate": "none.csv"}, "none.csv"),
        ({"calibrate": "short.csv"}, "10 steps; a horizon of 24 needs at least 124"),
        ({"calibrate": "held-out.csv", "feedback": ""}, "each of its outputs feed back"),
        (
            {"calendar": '{"derived": {"power": {"of": "hour"}}}', "frequency": "1h"},
            "'power' is not a feature of this model, or feeds back",
        ),
        ({"calendar": '{"gaps": "fill"}'}, "frequency"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_no_archive(place, series, more, message, capsys):  # noqa: F811
    write_series(place / "short.csv", np.zeros((10, 2)), NAMES)
    options = MODEL | {name: str(place / value) if name == "calibrate" else value for name, value in more.items()}
    given = arguments(place, **{name: value for name, value in options.items() if value})
    assert command.main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list((place / "store").iterdir()) == []
