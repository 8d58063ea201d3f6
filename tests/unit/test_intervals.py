"""Intervals: nested, as wide as the tables and the stream's factors say, and right in the long run; what a stream learns fits its bytes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import ConfigurationError
from handlers.forecasting import adaptation
from handlers.forecasting.adaptation import MAX_BYTES, Adaptation
from handlers.forecasting.intervals import GROUPS, TRACKED, Intervals
from tests.support.adder import ADDER

LEVELS = [10, 50, 80, 90, 95, 99]


def tables(horizon=8, outputs=1):
    """Scales grow with the horizon and double above a forecast of 10; quantiles are level / 100."""
    scales = np.array([[[h + 1.0, 2 * (h + 1.0)] for h in range(horizon)]] * outputs)
    quantiles = np.array([[[level / 100] * horizon for level in LEVELS]] * outputs)
    return {
        "levels": LEVELS,
        "edges": [[10.0]] * outputs,
        "scales": scales.tolist(),
        "quantiles": quantiles.tolist(),
        "naive": [2.0] * outputs,
    }


def intervals(horizon=8, outputs=1):
    found = Intervals.of(replace(ADDER, outputs=tuple(f"y{i}" for i in range(outputs)), intervals=tables(horizon, outputs)))
    assert found is not None
    return found


def test_a_bound_is_the_forecast_and_quantile_times_scale():
    forecast = np.array([[0.0], [20.0], [0.0]], np.float32)
    [(lower, upper)] = intervals().bounds(forecast, [80], None)
    assert upper.ravel() == pytest.approx([0.8, 20 + 0.8 * 4, 0.8 * 3])
    assert lower.ravel() == pytest.approx([-0.8, 20 - 0.8 * 4, -0.8 * 3])


def test_a_level_between_those_that_were_measured_is_interpolated_and_steps_beyond_the_horizon_are_as_the_last():
    levels = (5, 65, 99)
    bounds = intervals(2).bounds(np.zeros((4, 1), np.float32), levels, None)
    for level, (_, upper) in zip(levels, bounds, strict=True):
        assert upper.ravel().tolist() == pytest.approx([level / 100 * scale for scale in (1, 2, 2, 2)])


factors = st.lists(st.floats(-3, 4, width=32), min_size=4 * GROUPS, max_size=4 * GROUPS).map(
    lambda values: np.array(values, np.float32).reshape(len(TRACKED), GROUPS)
)


@given(factors, st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12))
def test_a_higher_level_is_never_narrower_whatever_was_learned(factors, values):
    forecast = np.array(values, np.float32)[:, None]
    bounds = intervals().bounds(forecast, list(range(1, 100)), factors)
    widths = np.stack([upper.astype(np.float64) - lower for lower, upper in bounds])
    assert (np.diff(widths, axis=0) >= -1e-6 * np.abs(forecast).max(initial=1)).all()
    assert all(((lower <= forecast) & (forecast <= upper)).all() for lower, upper in bounds)


def test_no_bound_is_infinite():
    [(lower, upper)] = intervals().bounds(np.array([[3.4e38], [-3.4e38]], np.float32), [99], np.full((4, GROUPS), 4, np.float32))
    assert np.isfinite([lower, upper]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"levels": [10, 50, 80]},
        {"edges": [[1.0, 2.0]]},
        {"quantiles": [[[1.0]]]},
        {"scales": [[1.0]]},
        {"scales": "none"},
        {"naive": [1.0, 2.0]},
    ],
)
def test_tables_that_do_not_fit_refuse_to_start(change):
    with pytest.raises(ConfigurationError, match="intervals: "):
        Intervals.of(replace(ADDER, outputs=("y",), intervals=tables() | change))


def test_a_model_that_was_not_calibrated_has_none():
    assert Intervals.of(ADDER) is None


class TestAdaptation:
    @pytest.mark.parametrize("spread", [0.2, 1.0, 5.0])
    def test_coverage_comes_right_however_wrong_the_tables_are(self, spread):
        """Every level at the next step and at the far end, over the last three quarters of a stream."""
        random, known, model = np.random.default_rng(1), Adaptation.new(), replace(intervals(), scales=np.ones((1, 8, 2)))
        covered = []
        for t in range(4000):
            bounds = model.bounds(np.zeros((8, 1), np.float32), TRACKED.tolist(), known.factors)
            known = known.forecast(model, np.zeros((8, 1), np.float32))
            value = random.normal(0, spread, 1)
            known = known.observed(model, np.zeros(1), value)
            if t > 1000:
                covered.append([[upper[h, 0] >= abs(value[0]) for h in (0, 7)] for _, upper in bounds])
        found = 100 * np.mean(covered, axis=0)
        assert found[:, 0] == pytest.approx(TRACKED, abs=1.5)
        assert found[:, 1] == pytest.approx(TRACKED, abs=2.5)

    def test_what_is_missing_teaches_nothing(self):
        model = intervals()
        known = Adaptation.new().forecast(model, np.ones((8, 1), np.float32))
        after = known.observed(model, np.zeros(1), np.full(1, np.nan))
        assert (after.factors == known.factors).all()
        assert [forecast.age for forecast in after.kept] == [1]

    def test_a_forecast_is_kept_every_few_steps_until_its_end(self):
        model = intervals(24)
        count, every = adaptation.kept_forecasts(model)
        known, ages = Adaptation.new(), []
        for _ in range(100):
            known = known.forecast(model, np.zeros((24, 1), np.float32)).observed(model, None, np.zeros(1))
            ages.append([forecast.age for forecast in known.kept])
        assert (count, every) == (5, 5)
        assert max(map(len, ages)) == 5
        assert ages[-1] == sorted(ages[-1], reverse=True)
        assert set(np.diff(ages[-1])) == {-5}

    def test_a_shorter_forecast_is_scored_as_far_as_it_goes(self):
        model = intervals(8)
        known = Adaptation.new().forecast(model, np.zeros((3, 1), np.float32))
        tables = []
        for _ in range(8):
            known = known.observed(model, None, np.full(1, 1e6))
            tables.append(known.factors)
        assert (tables[1] != tables[0]).any()
        assert (tables[-1] == tables[2]).all()

    @given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 9), st.data())
    def test_a_stream_is_the_same_whether_or_not_it_was_written_in_between(self, horizon, outputs, seed, data):
        model, random = intervals(horizon, outputs), np.random.default_rng(seed)
        kept = written = Adaptation.new()
        for _ in range(data.draw(st.integers(1, 30))):
            forecast, value = random.normal(0, 30, (horizon, outputs)).astype(np.float32), random.normal(0, 30, outputs)
            kept = kept.forecast(model, forecast).observed(model, forecast[0].astype(np.float64), value)
            written = written.forecast(model, forecast).observed(model, forecast[0].astype(np.float64), value)
            encoded = written.encode(model)
            assert len(encoded) <= MAX_BYTES
            written = adaptation.decode(encoded, model)
            assert written is not None
            assert written.encode(model) == encoded == kept.encode(model)

    def test_bytes_of_other_tables_are_not_taken(self):
        encoded = Adaptation.new().forecast(intervals(8), np.zeros((8, 1), np.float32)).encode(intervals(8))
        assert adaptation.decode(encoded, intervals(9)) is None
        assert adaptation.decode(b"", intervals(8)) is None
        assert adaptation.decode(encoded[:-1], intervals(8)) is None
