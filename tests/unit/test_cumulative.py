"""Distribution functions, compared with sums and integrals, and at the ends of what float32 holds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.forecasting import cumulative
from handlers.forecasting.distributions import from_quantiles
from tests.support.distribution_models import BELOW

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
positive = st.floats(0.05, 60)


@given(positive, st.floats(-30, 30), st.floats(0.1, 9), st.floats(-40, 40))
def test_continuous_families(freedom, location, scale, value):
    for kind, parameters in (("normal", (location, scale)), ("studentt", (freedom, location, scale))):
        below, up_to = cumulative.shares(kind, parameters, value)
        assert below == up_to == pytest.approx(BELOW[kind](parameters, value, 1.0), abs=2e-4 if freedom < 0.5 else 1e-6)


@given(positive, st.floats(0.01, 4), st.integers(0, 90))
def test_counts(mean, dispersion, value):
    for kind, parameters in (("poisson", (mean,)), ("negative-binomial", (mean, dispersion))):
        found = cumulative.shares(kind, parameters, value)
        assert found == pytest.approx([BELOW[kind](parameters, value, part) for part in (0.0, 1.0)], abs=1e-10)


@pytest.mark.parametrize("kind", ["poisson", "negative-binomial"])
def test_what_is_no_count(kind):
    parameters = (3.0, 0.5)[: 1 if kind == "poisson" else 2]
    at_two, at_three = cumulative.shares(kind, parameters, 2), cumulative.shares(kind, parameters, 3)
    assert cumulative.shares(kind, parameters, 2.5) == (at_two[1], at_three[0])
    assert cumulative.shares(kind, parameters, -0.5) == (0, 0)
    assert cumulative.shares(kind, (0.0, 0.5)[: len(parameters)], 0) == (0, 1)


@pytest.mark.parametrize("parameter", [0.9e6, 1.1e6])
def test_large_parameters_go_on_where_small_ones_end(parameter):
    for value in parameter + math.sqrt(parameter) * np.array([-2, -0.5, 0, 1, 2.5]):
        gaussian = cumulative.normal((parameter, math.sqrt(parameter)), value + 0.5)
        assert cumulative.poisson((parameter,), value) == pytest.approx(gaussian, abs=1e-3)
        assert cumulative.negative_binomial((parameter, 1e-12), value) == pytest.approx(gaussian, abs=2e-3)
    assert cumulative.student((parameter, 0, 1), 1.1) == pytest.approx(cumulative.normal((0, 1), 1.1), abs=1e-6)


tiny_to_huge = st.floats(2.0**-120, 2.0**120, width=32)


@given(st.sampled_from(["normal", "studentt", "poisson", "negative-binomial"]), st.tuples(*[tiny_to_huge] * 3), st.floats(width=32))
def test_any_parameters_give_a_share(kind, parameters, value):
    if not math.isfinite(value):
        value = 0.0
    count = {"studentt": 3, "poisson": 1}.get(kind, 2)
    below, up_to = cumulative.shares(kind, parameters[:count], value)
    assert 0 <= below <= up_to + 1e-9
    assert up_to <= 1


@given(st.lists(st.floats(-50, 50), min_size=5, max_size=5, unique=True), st.floats(0.001, 0.999))
def test_quantiles_are_the_inverse_of_what_is_drawn(quantiles, share):
    [value] = from_quantiles(np.array([quantiles]), np.array(LEVELS), np.array([share]))
    ordered = np.sort(quantiles)
    if np.diff(ordered).min() > 1e-3:
        assert cumulative.of_quantiles(quantiles, LEVELS, float(value)) == pytest.approx((share, share), abs=1e-6)


def test_quantiles_that_are_equal_hold_a_share_at_one_value():
    assert cumulative.of_quantiles([0, 0, 0, 2, 4], LEVELS, 0.0) == (0.05, 0.5)
    assert cumulative.of_quantiles([0, 0, 0, 2, 4], LEVELS, -1.0) == (0, 0)
    assert cumulative.of_quantiles([3] * 5, LEVELS, 3.0) == (0.05, 0.95)
    assert cumulative.of_quantiles([3] * 5, LEVELS, 4.0) == (1, 1)
