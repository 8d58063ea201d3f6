"""Defects that a proxy plants between a load test and a service are found, and each is named."""

import random
from collections.abc import Iterator

import pytest

from loadtests.load.answers import Answers
from loadtests.load.arrivals import Due, profile, rate_arrivals
from loadtests.load.checks import APPLIED_TWICE, DIGITS, SWAPPED
from loadtests.load.findings import findings
from loadtests.load.measurements import Measurements, percentile
from loadtests.load.scenarios import SCENARIOS
from loadtests.offline import OfflineModel
from tests.conftest import Exported, make_service
from tests.support.flawed_proxy import AppliedTwice, Flaw, Refusing, Stalls, Swapped, WrongDigit
from tests.support.load_in_process import open_loop, serving

RATE, SECONDS = "250", 1.5


@pytest.fixture(scope="module")
def answers(two: Exported) -> Answers:
    return Answers.compute(OfflineModel(two.built.archive))


def schedule(rate: str = RATE, seconds: float = SECONDS) -> Iterator[Due]:
    return rate_arrivals(profile(rate, seconds), random.Random(3))


def names(measurements: Measurements) -> list[str]:
    return [finding.name for finding in findings(measurements)]


def test_a_right_service_answers_every_scenario_as_it_does_offline(two: Exported, answers: Answers) -> None:
    mix = dict.fromkeys(SCENARIOS, 1)
    measured = open_loop(answers, serving(make_service(two)), Flaw(), schedule(), mix)
    total = measured.total()
    assert (total.wrong, total.failed, measured.problems) == (0, 0, {}), measured.examples
    assert total.answered == sum(second.due for second in measured.seconds.values()) > 300
    assert {name.partition(":")[0] for name in measured.kinds} == set(mix)
    assert 0.0 < measured.largest_difference <= answers.tolerance


@pytest.mark.parametrize(
    ("flaw", "name"), [(Swapped(), SWAPPED), (WrongDigit(), DIGITS), (AppliedTwice(), APPLIED_TWICE)], ids=["swapped", "digit", "twice"]
)
def test_a_wrong_answer_is_named_for_what_it_is(two: Exported, answers: Answers, flaw: Flaw, name: str) -> None:
    measured = open_loop(answers, serving(make_service(two)), flaw, schedule(), {"stream": 1})
    assert flaw.planted > 0
    assert measured.total().wrong == measured.problems[name] == flaw.planted, measured.examples
    assert names(measured) == [name]
    assert measured.total().failed == 0


def test_errors_that_a_retry_put_right_are_counted(two: Exported, answers: Answers) -> None:
    flaw = Refusing()
    measured = open_loop(answers, serving(make_service(two)), flaw, schedule(), {"stream": 1}, retry_seconds=10.0)
    total = measured.total()
    assert (total.failed, total.given_up, total.wrong) == (flaw.planted, 0, 0)
    assert 0 < total.retried <= flaw.planted
    assert names(measured) == ["errors hidden behind retries"]


def test_errors_without_a_retry_are_failed_requests(two: Exported, answers: Answers) -> None:
    flaw = Refusing()
    measured = open_loop(answers, serving(make_service(two)), flaw, schedule(), {"predict": 1})
    assert measured.total().given_up == flaw.planted > 0
    assert names(measured) == ["failed requests"]


def test_waiting_behind_a_server_that_stands_still_is_part_of_the_latency(two: Exported, answers: Answers) -> None:
    """A closed loop would send nothing meanwhile, and report one slow request for each connection."""
    flaw = Stalls(period=60.0, length=0.8)
    measured = open_loop(answers, serving(make_service(two)), flaw, schedule(), {"predict": 1}, connections=2)
    latencies = measured.total().latencies
    assert percentile(latencies, 99) > 500.0
    assert percentile(latencies, 60) > 100.0, "half of what was due fell into the stall"
    assert measured.waited > 50
