"""The capacity search finds where a deployment breaks, says how sure it is, and a comparison tells changes from noise."""

import random

import pytest

from loadtests.load.capacity import above, bisect, sentence, wilson
from loadtests.load.compare import compare, printed
from loadtests.load.measurements import Measurements, histogram, record
from loadtests.load.objectives import Objective, parse
from loadtests.load.result import Result, judged
from loadtests.load.running import Plan
from tests.unit.test_load_judgement import measured

BOUND = parse("p99<100ms, errors=0, wrong=0")


def deployment(limit: float, seed: int = 0):
    """A deployment whose latency explodes above a load; each window is measured over 2,000 requests."""
    draw, loads = random.Random(seed), list[float]()

    def measure(load: float, windows: float) -> Result:
        loads.append(load)
        found = Measurements()
        for i in range(int(2_000 * windows)):
            found.answer("stream: step", i / 100, draw.expovariate(1.0) * (0.010 if load <= limit else 0.060), None)
        return judged(found, 20.0 * windows, BOUND)

    return measure, loads


@pytest.mark.parametrize("limit", [37.0, 812.0, 21_000.0])
def test_the_search_comes_within_its_precision(limit: float, capsys: pytest.CaptureFixture[str]) -> None:
    measure, loads = deployment(limit)
    found = bisect(measure, BOUND, start=500.0, precision=0.1)
    assert 0.85 * limit <= found.carried <= limit
    assert found.confirmation is not None
    assert len(loads) < 28
    assert "not kept" in capsys.readouterr().out


def test_one_bad_window_is_no_limit() -> None:
    measure, loads = deployment(812.0)

    def disturbed(load: float, windows: float) -> Result:
        result = measure(load, windows)
        return measure(1e9, windows) if len(loads) == 1 else result

    assert bisect(disturbed, BOUND, start=500.0, precision=0.1).carried > 690.0


def test_a_deployment_that_carries_nothing_is_told_so() -> None:
    measure, _ = deployment(0.0)
    found = bisect(measure, BOUND, start=64.0, precision=0.1)
    assert (found.carried, found.confirmation) == (0.0, None)
    assert sentence(found, Plan("store", "two"), "sessions", BOUND).startswith("the deployment keeps p99_ms")  # type: ignore[arg-type]


def test_the_answer_is_a_sentence_to_plan_with() -> None:
    measure, _ = deployment(812.0)
    found = bisect(measure, BOUND, start=500.0, precision=0.1)
    said = sentence(found, Plan("store", "two", seconds=20.0, cadence=10.0), "sessions", BOUND)  # type: ignore[arg-type]
    assert f"{found.carried:,.0f} sessions, each stepping every 10 s" in said
    assert "over 40 s" in said
    assert "the deployment is the limit" in said


def test_too_few_requests_are_no_confidence() -> None:
    """None of ten requests was slow: a share of 1 % cannot be ruled out."""
    found = Measurements()
    for i in range(10):
        found.answer("predict", i / 10, 0.01, None)
    result = bisect(lambda load, windows: judged(found, 1.0, BOUND), [Objective("all requests", "p99_ms", 100.0)], 1.0, 0.5)
    assert result.carried == 0.0
    assert "too few requests" in result.attempts[0].why


def test_wilsons_bound_is_the_tabulated_one() -> None:
    assert wilson(0, 0) == 1.0
    assert wilson(0, 100) == pytest.approx(0.0263, abs=1e-3)
    assert wilson(5, 100) == pytest.approx(0.0993, abs=2e-3)


def test_slow_requests_are_counted_from_the_histogram() -> None:
    latencies = histogram()
    for milliseconds in range(1, 201):
        record(latencies, milliseconds / 1e3)
    assert above(latencies, 150.0) == pytest.approx(50, abs=1)


def result_of(latency: float, seed: int) -> Result:
    return judged(measured(lambda at: latency, rate=50, seconds=40, seed=seed), 40.0, [])


def test_two_runs_alike_differ_by_noise() -> None:
    assert all(change.noise for change in compare(result_of(0.010, 1), result_of(0.010, 2)))


def test_a_run_that_is_slower_has_changed_and_by_how_much() -> None:
    changes = {change.measure: change for change in compare(result_of(0.010, 1), result_of(0.012, 2))}
    median = changes["p50 of a second, ms"]
    assert not median.noise
    assert median.low < 1.2 < median.high
    assert changes["answered a second"].noise
    assert "1.2" in printed(list(changes.values()))


def test_a_run_that_is_too_short_is_not_compared() -> None:
    with pytest.raises(ValueError, match="too few"):
        compare(judged(measured(seconds=5), 5.0, []), result_of(0.01, 1))
