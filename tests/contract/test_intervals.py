"""Forecasts with intervals: adapted in each stream from what came true, exactly under retries, what-ifs, forks and rewinds."""

import numpy as np
import pytest

from export.errors import CalibrationError
from handlers.forecasting.memory import decode
from handlers.sessions.record import Record
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, make_service, refusal
from tests.support.calibrated import calibrated, write_series
from tests.support.requests import act, contents, raw, step

HORIZON = 6


@pytest.fixture(scope="module")
def meter(exported, tmp_path_factory):
    """The model of one feature, calibrated on noise with a hole in it."""
    model = exported("one")
    values = model.sequence(400, seed=3)
    values[[50, 51, 200]] = np.nan
    return calibrated(model, write_series(tmp_path_factory.mktemp("series") / "load.csv", values), HORIZON)


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def service(meter, store):
    return make_service(meter, store=store, keep_versions=5)


@pytest.fixture
def x(meter):
    return meter.sequence(40, seed=4) * 3  # wilder than what was calibrated on


def ask_for(at, rows, id="a", **more):
    return step(id, at, rows, horizon=HORIZON, levels=[80, 95], **more)


def widths(reply, level="80"):
    bounds = reply["intervals"][level]
    return np.array(bounds["upper"]).ravel() - np.array(bounds["lower"]).ravel()


def learned(store, id="a"):
    return decode(Record.decode(store.get_many([f"one/{id}".encode()])[0].value).state.forecast, 1).learned


def test_a_forecast_has_the_intervals_that_were_asked_for(service, x):
    reply = answer(service, ask_for(0, x[:5]))
    assert list(reply["intervals"]) == ["80", "95"]
    forecast = np.array(reply["forecast"])
    for bounds in reply["intervals"].values():
        lower, upper = np.array(bounds["lower"]), np.array(bounds["upper"])
        assert lower.shape == upper.shape == forecast.shape == (HORIZON, 1)
        assert ((lower <= forecast) & (forecast <= upper)).all()
    assert (widths(reply, "95") >= widths(reply)).all()


def test_without_a_session_they_are_as_they_were_measured(service, x):
    assert (
        answer(service, {"inputs": x[:5].tolist(), "horizon": HORIZON, "levels": [80]})["intervals"]["80"]
        == (answer(service, ask_for(0, x[:5]))["intervals"]["80"])
    ), "a stream that begins has learned nothing"


def test_a_stream_widens_them_where_the_errors_are_larger(service, x):
    first = answer(service, ask_for(0, x[:1]))
    for at in range(1, 40):
        last = answer(service, ask_for(at, x[at : at + 1]))
    assert (widths(last) > widths(first)).all()


def test_a_stream_that_was_not_asked_learns_nothing(service, store, x):
    answer(service, step("a", 0, x[:2]))
    answer(service, step("a", 2, x[2:3], horizon=HORIZON))
    assert learned(store) == b""
    answer(service, ask_for(3, x[3:4], commit=False))
    assert learned(store) == b"", "a what-if is no wish of the stream"
    answer(service, ask_for(3, x[3:4]))
    assert learned(store) != b""


def test_a_stream_that_was_asked_once_goes_on_learning(service, store, x):
    answer(service, ask_for(0, x[:1]))
    before = learned(store)
    answer(service, step("a", 1, x[1:2]))
    assert learned(store) != before


def grown(service, x, id="a", upto=20):
    for at in range(upto):
        reply = answer(service, ask_for(at, x[at : at + 1], id))
    return reply


def test_a_retry_is_answered_byte_for_byte_and_learns_nothing(service, store, x):
    grown(service, x)
    first = raw(service, ask_for(20, x[20:21]))
    before = contents(store)
    assert raw(service, ask_for(20, x[20:21])) == first.replace(b'"replayed":false', b'"replayed":true')
    assert contents(store) == before


def test_other_levels_are_another_request(service, x):
    answer(service, ask_for(0, x[:1]))
    other = step("a", 0, x[:1], horizon=HORIZON, levels=[80])
    assert refusal(service, other)[1] == "session_exists"


def test_a_what_if_answers_as_the_step_would_and_learns_nothing(service, store, x):
    grown(service, x)
    before = contents(store)
    what_if = answer(service, ask_for(20, x[20:21], commit=False))
    assert contents(store) == before
    assert answer(service, ask_for(20, x[20:21]))["intervals"] == what_if["intervals"]


def test_a_fork_knows_what_its_source_had_learned(service, x):
    grown(service, x)
    answer(service, act("a", "fork", to="b"))
    assert answer(service, ask_for(20, x[20:21]))["intervals"] == answer(service, ask_for(20, x[20:21], "b"))["intervals"]


def test_a_rewind_unlearns(service, x):
    grown(service, x, upto=17)
    expected = [answer(service, ask_for(at, x[at : at + 1]))["intervals"] for at in range(17, 20)]
    answer(service, {"session": {"id": "a", "action": "rewind", "step": 17}})
    assert [answer(service, ask_for(at, x[at : at + 1]))["intervals"] for at in range(17, 20)] == expected


def test_what_is_missing_is_not_learned_from(service, store, x):
    grown(service, x)
    answer(service, {"inputs": [None], "session": {"id": "a", "step": 20}})
    after_hole = learned(store)
    answer(service, {"inputs": [None], "session": {"id": "a", "step": 21}})
    assert learned(store)[:64] == after_hole[:64], "the factors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "go with a horizon"),
        ({"levels": []}, "expected a list of percentages"),
        ({"levels": 80}, "expected a list of percentages"),
        ({"levels": [80.5]}, "expected a list of percentages"),
        ({"levels": [0]}, "expected 1 to 99 percent, got 0"),
        ({"levels": [100]}, "expected 1 to 99 percent, got 100"),
        ({"levels": [80, 80]}, "each once"),
        ({"levels": list(range(1, 30))}, "at most 20"),
    ],
)
def test_levels_that_are_wrong(service, x, change, message):
    status, code, error = refusal(service, ask_for(0, x[:1]) | change)
    assert (status, code) == (422, "invalid_input")
    assert message in error["message"]


def test_a_model_that_was_not_calibrated_says_so(exported, x):
    assert "exported without --calibrate" in refusal(make_service(exported("one")), ask_for(0, x[:1]))[2]["message"]


class TestCalibration:
    @pytest.fixture
    def measure(self, exported, tmp_path):
        def run(name, values, names=("load",), horizon=HORIZON):
            return calibrated(exported(name), write_series(tmp_path / "series.csv", values, names), horizon)

        return run

    @pytest.mark.parametrize("level", [50, 80, 95])
    def test_intervals_cover_what_they_say_on_another_series_of_the_kind(self, exported, meter, level):
        x, service, inside = exported("one").sequence(800, seed=11), make_service(meter), []
        for at in range(10, 790, 3):
            bounds = answer(service, {"inputs": x[at - 8 : at].tolist(), "horizon": 3, "levels": [level]})["intervals"][str(level)]
            lower, upper = np.array(bounds["lower"]), np.array(bounds["upper"])
            inside.append((lower <= x[at : at + 3]) & (x[at : at + 3] <= upper))
        assert 100 * np.mean(inside) == pytest.approx(level, abs=5)

    def test_a_series_that_is_too_short(self, measure):
        with pytest.raises(CalibrationError, match="50 steps; a horizon of 6 needs at least 106"):
            measure("one", np.zeros((50, 1)))

    def test_a_series_without_measurements(self, measure):
        values = np.full((300, 1), np.nan)
        values[0] = 1
        with pytest.raises(CalibrationError, match="0 measurements to compare"):
            measure("one", values)

    def test_a_column_that_is_not_there(self, measure):
        with pytest.raises(CalibrationError, match="no column 'load'"):
            measure("one", np.zeros((200, 1)), ("weight",))

    def test_a_value_that_cannot_be_predicted(self, measure):
        values = np.ones((200, 3))
        values[40, 2] = np.nan
        with pytest.raises(CalibrationError, match="does not predict"):
            measure("two", values, ("flow", "hour", "rain"))

    def test_a_file_that_is_not_there(self, exported, tmp_path):
        model = exported("one")
        with pytest.raises(CalibrationError, match=r"none\.csv"):
            calibrated(model, tmp_path / "none.csv", HORIZON)

    def test_a_model_whose_outputs_do_not_come_true(self, exported, tmp_path):
        model = exported("words")
        with pytest.raises(CalibrationError, match="each of its outputs feed back"):
            calibrated(model, tmp_path / "none.csv", HORIZON)
