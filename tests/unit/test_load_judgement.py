"""What a run's numbers are held against, what is unusual in them, and what the verdict is."""

import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.load import objectives
from loadtests.load.checks import DIGITS, REFUSED, Problem
from loadtests.load.findings import findings, generator_limits
from loadtests.load.measurements import Measurements, percentile
from loadtests.load.objectives import ALL, Objective, hold
from loadtests.load.result import FAILED, NOT_MEASURED, PASSED, judged, junit, load

SECONDS = 60


def measured(latency: Callable[[float], float] = lambda at: 0.010, rate: int = 100, seconds: int = SECONDS, seed: int = 0) -> Measurements:
    """A run at a constant rate whose latency is that of the moment, give or take a fifth."""
    draw, found = random.Random(seed), Measurements()
    for i in range(rate * seconds):
        due = i / rate
        found.due(due)
        found.answer("predict", due, latency(due) * draw.uniform(0.8, 1.2), None)
    return found


def stalling(period: float, length: float) -> Callable[[float], float]:
    """The latency behind a server that stands still for `length` seconds every `period`, seen from the moment a request was due."""
    return lambda at: 0.010 + max(0.0, length - (at + 3.0) % period)


def names(found: Measurements) -> list[str]:
    return [finding.name for finding in findings(found)]


def test_nothing_is_unusual_in_a_steady_run() -> None:
    assert names(measured()) == []


def test_a_stall_every_twenty_seconds_is_found() -> None:
    [finding] = findings(measured(stalling(20.0, 0.3), seconds=120))
    assert finding.name == "periodic stall"
    assert "one every 20 s" in finding.sentence


def test_a_period_is_found_among_other_stalls() -> None:
    [finding] = findings(measured(lambda at: stalling(20.0, 0.3)(at) + 0.4 * (31 <= at < 31.5) + 0.4 * (70 <= at < 70.5), seconds=120))
    assert finding.name == "periodic stall"
    assert "6 stalls" in finding.sentence
    assert "one every 20 s" in finding.sentence


def test_a_single_stall_is_told_with_its_moment() -> None:
    """Nothing is answered in second 30, and what was due then waits until the end of the stall."""
    outage, stall = findings(measured(lambda at: 0.01 + max(0.0, 1.9 - (at - 30.0)) * (at >= 30.0)))
    assert (outage.name, stall.name) == ("outage", "stall")
    assert "at second 31" in stall.sentence


def test_latency_that_leaks_is_found() -> None:
    [finding] = findings(measured(lambda at: 0.010 + 0.0003 * at))
    assert finding.name == "growing latency"
    assert re.search(r"1[78]\.\d ms a minute", finding.sentence)


def test_latency_that_grows_with_the_load_is_no_leak() -> None:
    found = Measurements()
    for at in range(SECONDS):
        for i in range(10 + at * 4):
            found.due(at + i / 1000)
            found.answer("predict", at + i / 1000, 0.010 + 0.0003 * at, None)
    assert names(found) == []


def test_seconds_without_an_answer_are_an_outage() -> None:
    found = measured()
    for at in (20, 21, 40):
        found.seconds[at].answered = 0
    assert findings(found)[0].sentence == "nothing was answered in 3 seconds: from second 20 to 22, 40 to 41"


def test_a_generator_that_is_late_or_busy_says_so() -> None:
    found = measured()
    assert generator_limits(found) == []
    for _ in range(100):
        found.late(0.030)
    found.processor["a 1"] = 0.97
    busy, late = generator_limits(found)
    assert "97%" in busy
    assert "30.0 ms late" in late


def test_the_numbers_of_processes_add_up_through_json() -> None:
    one, other = measured(seed=1), measured(lambda at: 0.5, seed=2)
    other.problem(Problem(DIGITS, "off by 1e-3"))
    other.largest_difference, other.processor["b 2"] = 1e-3, 0.4
    both = Measurements.from_dict(one.to_dict()).add(other.to_dict())
    assert both.total().answered == 2 * 100 * SECONDS
    assert percentile(both.total().latencies, 25) == pytest.approx(10, rel=0.2)
    assert percentile(both.total().latencies, 99) == pytest.approx(600, rel=0.02)
    assert (both.problems, both.largest_difference, both.processor) == ({DIGITS: 1}, 1e-3, {"b 2": 0.4})
    assert both.seconds[3].answered == pytest.approx(200, rel=0.1)
    assert both.seconds[3].due == 200


def test_what_was_due_in_the_warm_up_is_left_out_but_not_what_was_wrong() -> None:
    found = Measurements(warm_up=5.0)
    found.answer("predict", 4.0, 0.1, None)
    found.answer("predict", 4.0, 0.1, Problem(DIGITS, ""))
    found.answer("predict", 5.0, 0.1, None)
    assert (found.total().answered, found.total().wrong) == (2, 1)
    assert found.seconds[4].answered == 2


# Objectives and verdicts.


def test_objectives_are_read_from_a_file_by_kind_and_measure(tmp_path: Path) -> None:
    path = tmp_path / "slo.toml"
    path.write_text('[objectives]\nerrors = 0\np99_9_ms = 50\n[objectives."stream: step"]\nanswered_per_second = 100.5\n')
    assert objectives.read(path) == [
        Objective(ALL, "errors", 0.0),
        Objective(ALL, "p99_9_ms", 50.0),
        Objective("stream: step", "answered_per_second", 100.5),
    ]


@pytest.mark.parametrize(
    "text", ["", "[objectives]\nspeed = 1", "[objectives]\nerrors = true", "[objectives\n", '[objectives]\np99_ms = "fast"']
)
def test_what_is_no_objective_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"slo.toml|Expected"):
        objectives.read(path)


def test_a_line_of_objectives_is_read() -> None:
    found = objectives.parse("p99<100ms, p99.99 <= 2s, errors=0, wrong=0")
    assert found == [
        Objective(ALL, "p99_ms", 100),
        Objective(ALL, "p99_99_ms", 2_000),
        Objective(ALL, "errors", 0),
        Objective(ALL, "wrong", 0),
    ]
    with pytest.raises(ValueError, match="got 'fast'"):
        objectives.parse("fast")


def test_bounds_are_held_against_what_was_measured() -> None:
    wanted = [Objective(ALL, "p99_ms", 12.5), Objective(ALL, "answered_per_second", 99), Objective("forecast", "answered", 1)]
    kept = [outcome.kept for outcome in hold(wanted, measured(), SECONDS)]
    assert kept == [True, True, False]


def test_the_verdict_names_what_was_not_kept() -> None:
    bounds = objectives.read(objectives.DEFAULT)
    assert judged(measured(), SECONDS, bounds).verdict == PASSED
    slow = judged(measured(lambda at: 2.0), SECONDS, bounds)
    assert (slow.verdict, slow.code) == (FAILED, 1)
    assert "p99_ms" in slow.sentence()
    assert judged(measured(), SECONDS, bounds, kinds=["stream"]).verdict == FAILED
    assert judged(measured(), SECONDS, bounds, kinds=["predict"]).verdict == PASSED


def test_a_bound_on_time_that_a_late_generator_missed_is_not_measured() -> None:
    found = measured(lambda at: 2.0)
    for _ in range(100):
        found.late(1.5)
    result = judged(found, SECONDS, objectives.read(objectives.DEFAULT))
    assert (result.verdict, result.code) == (NOT_MEASURED, 3)
    found.answer("predict", 9.0, 0.01, Problem(DIGITS, "off"))
    found.problem(Problem(DIGITS, "off"))
    assert judged(found, SECONDS, objectives.read(objectives.DEFAULT)).verdict == FAILED, "a wrong answer is wrong however late"


def test_a_result_is_written_and_read_again(tmp_path: Path) -> None:
    found = measured()
    found.answer("predict", 9.0, 0.01, Problem(REFUSED, "status 503"), failures=2)
    found.problem(Problem(REFUSED, "status 503"))
    result = judged(found, SECONDS, objectives.read(objectives.DEFAULT), about={"model": "two", "tolerance": 2e-5})
    result.write(tmp_path)
    again = load(tmp_path / "result.json")
    assert (again.sentence(), again.verdict, again.findings) == (result.sentence(), FAILED, result.findings)
    suite = ET.fromstring((tmp_path / "junit.xml").read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("5", "1")
    assert junit(again) == junit(result)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="not the result of a load test"):
        load(tmp_path / "result.json")
