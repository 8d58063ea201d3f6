"""Scores: means as NumPy computes them, coverage of the intervals, and a drift that is found soon, once, and not in what is familiar."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.forecasting import scoring
from handlers.forecasting.scoring import Scores
from tests.unit.test_intervals import intervals

values = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=40)


def run(pairs, factors=None):
    scores = Scores.new(1)
    for prediction, value in pairs:
        scores = scores.observed(intervals(), np.array([prediction]), np.array([value]), factors)
    return scores


@given(values)
def test_means_are_those_of_all_errors(pairs):
    errors = np.array([prediction - value for prediction, value in pairs])
    document = run(pairs).document(intervals())
    assert document["steps"] == len(pairs)
    assert document["mae"] == pytest.approx([np.abs(errors).mean()], abs=1e-9)
    assert document["bias"] == pytest.approx([errors.mean()], abs=1e-9)
    assert document["mase"] == pytest.approx([np.abs(errors).mean() / 2], abs=1e-9)
    assert document["coverage"] == {"80": pytest.approx(100 * np.mean(np.abs(errors) <= 0.8))}


def test_coverage_is_that_of_the_stream_as_it_has_adapted():
    assert run([(0, 1)]).covered == 0
    assert run([(0, 1)], np.full((4, 4), 1, np.float32)).covered == 1


def test_what_was_not_measured_or_not_predicted_is_not_scored():
    known = run([(0, 1)])
    assert known.observed(intervals(), np.zeros(1), np.full(1, np.nan), None) is known
    assert known.observed(intervals(), None, np.zeros(1), None) is known
    assert Scores.new(1).document(intervals()) == {"steps": 0, "drift": False, "drifts": 0}


@given(values)
def test_scores_come_back_whole(pairs):
    scores = run(pairs)
    assert scoring.decode(scores.encode(), 1).document(intervals()) == scores.document(intervals())


def test_bytes_of_another_model_begin_anew():
    assert scoring.decode(run([(0, 1)]).encode(), 2).steps == 0
    assert scoring.decode(b"", 1).steps == 0


class TestDrift:
    def errors(self, scale, count, seed=0):
        """Errors whose mean absolute value is `scale` times that of the calibration."""
        return [(0.0, value) for value in np.random.default_rng(seed).laplace(0, scale, count)]

    def test_a_familiar_stream_does_not_drift(self):
        assert [run(self.errors(1.0, 3000, seed)).drifts for seed in range(5)] == [0] * 5

    def test_a_stream_whose_errors_have_tripled_drifts_within_fifty_steps(self):
        scores = run(self.errors(1.0, 300) + self.errors(3.0, 50, seed=1))
        assert (scores.drifting, scores.drifts) == (True, 1)

    def test_a_drift_is_counted_once_and_ends(self):
        scores = run(self.errors(4.0, 500) + self.errors(0.5, 120, seed=1))
        assert (scores.drifting, scores.drifts) == (False, 1)

    def test_one_outlier_is_no_drift(self):
        assert run([(0.0, 1e6)]).drifts == 0
