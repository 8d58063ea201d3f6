"""The scores of many streams, counted together, are to the bit what each stream's are by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.forecasting import scoring
from handlers.forecasting.intervals import Intervals, Judged, JudgedTogether
from handlers.forecasting.scoring import Scores, observed_together

numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e300])
unusual = st.floats(0, 20) | st.sampled_from([0.0, 1.5, 8.0, float("inf"), float("nan")])
cusums = st.floats(0, 60) | st.sampled_from([0.0, 0.5, 1.0, 30.0, 60.0])
streams = st.tuples(numbers, numbers, st.integers(0, 10**6), cusums, st.integers(0, 9), st.booleans())
steps = st.none() | st.tuples(numbers, numbers, unusual, st.booleans())


class Known:
    """Judges as it is told."""

    series, naive = 2, None

    def judged(self, expected, value, factors):
        return expected


@given(st.lists(st.tuples(streams, steps), min_size=1, max_size=9))
def test_scores_after_a_step(drawn) -> None:
    before = [Scores(np.array([a, b]), np.array([b, a]), n, n // 2, cusum, drifts, is_on) for (a, b, n, cusum, drifts, is_on), _ in drawn]
    judged = [None if step is None else Judged(np.array(step[:2]), step[2], step[3]) for _, step in drawn]
    some = [Judged(np.full(2, np.nan), np.nan, False) if one is None else one for one in judged]
    layout = np.dtype(scoring.fields(2))
    rows, after = np.frombuffer(b"".join(scores.encode() for scores in before), layout), np.zeros(len(drawn), layout)
    columns = [np.array([getattr(one, name) for one in some]) for name in ("error", "unusual", "covered")]
    counted = observed_together(rows, JudgedTogether(*columns, np.array([one is not None for one in judged])), after)
    expected = [scores.observed(Known(), one, np.zeros(2), None) for scores, one in zip(before, judged, strict=True)]
    assert [row.tobytes() for row in after] == [scores.encode() for scores in expected]
    assert [tuple(row) for row in counted.tolist()] == [now.since(then) for now, then in zip(expected, before, strict=True)]


@pytest.mark.parametrize("outputs", [1, 2, 7, 8, 9, 40])
def test_predictions_of_points_are_judged_as_each_by_itself(outputs: int) -> None:
    random = np.random.default_rng(outputs)
    levels, edges = np.array([50.0, 80, 90, 95]), np.sort(random.normal(size=(outputs, 3)), axis=1)
    intervals = Intervals(levels, edges, random.random((outputs, 5, 4)), random.random((outputs, 4, 5)), np.ones(outputs))
    expected, value = random.normal(size=(2, 50, outputs))
    expected[3, 0], value[[5, 6], -1] = np.nan, np.nan
    together = intervals.judged_together(expected, value)
    for i in range(50):
        one = intervals.judged(expected[i], value[i], None)
        assert together.is_known[i] == (one is not None)
        if one is not None:
            assert together.error[i].tobytes() == one.error.tobytes()
            assert (together.unusual[i], together.covered[i]) == (one.unusual, one.covered)
    assert together.covered.any() and not together.covered.all() if outputs < 7 else True
