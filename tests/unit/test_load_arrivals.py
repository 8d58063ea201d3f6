"""Schedules of an open loop: as many arrivals as the rate says, in order, each session on a clock of its own."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from loadtests.load.arrivals import population_arrivals, profile, rate_arrivals, scaled, trace_arrivals

RATES = {"100": 6_000, "ramp:0:200": 6_000, "steps:50:100:150": 6_000, "spike:50:550": 6_000, "diurnal:50:150": 6_000}


@pytest.mark.parametrize("poisson", [True, False], ids=["poisson", "evenly"])
@pytest.mark.parametrize(("text", "expected"), RATES.items(), ids=RATES)
def test_a_profile_has_its_number_of_arrivals(text: str, expected: int, poisson: bool) -> None:
    found = [due.at for due in rate_arrivals(profile(text, 60.0), random.Random(1), poisson)]
    assert abs(len(found) - expected) < (4 * expected**0.5 if poisson else 2)
    assert all(a <= b for a, b in itertools.pairwise(found))
    assert 0.0 <= found[0] <= found[-1] <= 60.0


def test_a_ramp_grows() -> None:
    found = np.array([due.at for due in rate_arrivals(profile("ramp:0:200", 60.0), random.Random(1), poisson=False)])
    assert np.histogram(found, bins=3, range=(0, 60))[0] == pytest.approx([667, 2_000, 3_333], abs=3)


def test_gaps_of_a_poisson_process_are_exponential() -> None:
    found = [due.at for due in rate_arrivals(profile("200", 100.0), random.Random(1))]
    gaps = np.diff(found)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.0, abs=0.05)


def test_processes_share_a_rate() -> None:
    parts = [list(rate_arrivals(scaled(profile("300", 60.0), 1 / 3), random.Random(i), poisson=False)) for i in range(3)]
    assert sum(map(len, parts)) == pytest.approx(18_000, abs=3)


@pytest.mark.parametrize("text", ["", "-5", "many", "ramp:5", "spike:1:2:3", "sine:1:2", "steps:"])
def test_what_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|float"):
        profile(text, 10.0)


def test_every_session_is_due_once_a_cadence() -> None:
    found = list(population_arrivals(range(500), cadence=10.0, jitter=0.2, duration=50.0, draw=random.Random(2)))
    assert all(a.at <= b.at for a, b in itertools.pairwise(found))
    assert len(found) == pytest.approx(2_500, abs=60)
    of_one = [due.at for due in found if due.key == 7]
    assert np.diff(of_one) == pytest.approx([10.0] * (len(of_one) - 1), abs=2.0)
    assert np.std([next(due.at for due in found if due.key == key) for key in range(500)]) == pytest.approx(10 / 12**0.5, rel=0.15)


def test_a_trace_is_shared_and_must_be_in_order(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("0.1\n0.2\n0.4\n0.8\n")
    assert [due.at for due in trace_arrivals(path, share=2, part=1)] == [0.2, 0.8]
    path.write_text("0.1\n0.05\n")
    with pytest.raises(ValueError, match=r"trace:2: 0.05 s is earlier"):
        list(trace_arrivals(path))
