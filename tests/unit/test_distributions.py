"""Distributions: what is drawn from them has their mean and spread, and parameters that are none give no number."""

import math
from dataclasses import replace

import numpy as np
import pytest

from handlers.errors import ConfigurationError
from handlers.forecasting.distributions import Distribution, distributions, from_quantiles
from handlers.forecasting.sampling import sample_intervals, seed
from tests.support.signatures import METER

COUNT = 40_000
MOMENTS = {  # kind: parameters, mean, variance
    "normal": ((3.0, 2.0), 3.0, 4.0),
    "studentt": ((8.0, 3.0, 2.0), 3.0, 4.0 * 8 / 6),
    "poisson": ((4.5,), 4.5, 4.5),
    "negative-binomial": ((6.0, 0.5), 6.0, 6.0 + 0.5 * 36),
}
INVALID = {
    "normal": [(0, 0), (0, -1), (math.nan, 1), (math.inf, 1)],
    "studentt": [(0, 0, 1), (5, 0, 0), (5, math.nan, 1)],
    "poisson": [(-0.1,), (math.nan,)],
    "negative-binomial": [(-1, 1), (1, 0), (1, -1)],
}


def distribution(kind, count):
    return Distribution(kind, tuple(range(count)), 0)


@pytest.mark.parametrize("kind", MOMENTS)
def test_what_is_drawn_has_the_mean_and_the_variance(kind):
    parameters, mean, variance = MOMENTS[kind]
    drawn = distribution(kind, len(parameters)).draw(np.tile(np.float32(parameters), (COUNT, 1)), np.random.default_rng(0))
    assert abs(drawn.mean() - mean) < 4 * math.sqrt(variance / COUNT)
    assert abs(drawn.var() / variance - 1) < 0.1


@pytest.mark.parametrize(("kind", "bad"), [(kind, bad) for kind, several in INVALID.items() for bad in several])
def test_parameters_that_are_none_give_no_number_and_change_nothing_for_others(kind, bad):
    good = np.float32(MOMENTS[kind][0])
    drawn = distribution(kind, len(good)).draw(np.stack([good, np.float32(bad), good]), np.random.default_rng(0))
    assert np.isnan(drawn).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["poisson", "negative-binomial"])
def test_a_rate_of_any_size_can_be_drawn_from(kind):
    parameters = np.float32([[3e38, 1.0], [0.0, 1.0], [1.0, 1e-30]])[:, : len(MOMENTS[kind][0])]
    drawn = distribution(kind, parameters.shape[1]).draw(parameters, np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert drawn[1] == 0


def test_between_quantiles_the_distribution_is_linear_and_beyond_them_exponential():
    levels, shares = np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.3, 0.5, 0.6, 0.9, 0.05, 0.99])
    found = from_quantiles(np.tile([1.0, 3.0, 7.0], (7, 1)), levels, shares)
    expected = [1, 2, 3, 4, 7, 1 + 2 * math.log(0.5) / math.log(5), 7 + 4 * math.log(0.1) / math.log(0.2)]
    np.testing.assert_allclose(found, expected)
    assert (np.diff(from_quantiles(np.tile([1.0, 3.0, 7.0], (999, 1)), levels, np.arange(1, 1000) / 1000)) > 0).all()


def test_quantiles_that_cross_are_sorted_and_a_share_of_nothing_is_finite():
    levels = np.array([0.1, 0.5, 0.9])
    assert from_quantiles(np.array([[7.0, 1.0, 3.0]]), levels, np.array([0.5])) == [3.0]
    assert np.isfinite(from_quantiles(np.array([[1.0, 3.0, 7.0]] * 2), levels, np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "cauchy", "outputs": ["mu"], "prediction": "mu"},
        {"kind": "normal", "outputs": ["mu"], "prediction": "mu"},
        {"kind": "normal", "outputs": ["mu", "other"], "prediction": "mu"},
        {"kind": "quantiles", "outputs": ["mu", "sigma"], "prediction": "mu"},
        {"outputs": ["mu", "sigma"]},
        "normal",
    ],
)
def test_a_signature_that_this_release_does_not_understand_refuses(entry):
    with pytest.raises(ConfigurationError, match="export the model again"):
        distributions(replace(METER, outputs=("mu", "sigma"), distribution=(entry,)))


def test_a_seed_is_that_of_session_position_and_request():
    seeds = {seed("a", 5, b"1"), seed("b", 5, b"1"), seed("a", 6, b"1"), seed("a", 5, b"2"), seed("a5", 5, b"1")}
    assert len(seeds) == 5
    assert seed("a", 5, b"1") in seeds


def test_an_interval_holds_its_share_of_what_is_drawn_next():
    """Bounds at k / (N + 1): of many sets of 19 paths, the 80 % interval holds a twentieth path in four of five."""
    drawn = np.random.default_rng(0).normal(size=(19, 20_000, 1))
    [(lower, upper)] = sample_intervals(drawn, [80])
    new = np.random.default_rng(1).normal(size=(20_000, 1))
    assert abs(((lower <= new) & (new <= upper)).mean() - 0.8) < 0.01
