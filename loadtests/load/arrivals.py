"""When requests are due in an open loop: arrivals at a rate that varies over time, recorded arrivals, and populations of sessions.

Every schedule is an iterator of `(due, key)`: seconds since the start of the load, in order, and the session that is due, or -1 for any.
"""

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

Point = tuple[float, float]  # seconds, requests a second
ANY = -1
DIURNAL_POINTS = 48


class Due(NamedTuple):
    """A moment at which a request is due."""

    at: float
    key: int = ANY


def profile(text: str, duration: float) -> list[Point]:
    """Read a rate over time as points between which it is linear.

    Forms, with rates in requests a second: `500` constant; `ramp:100:500`; `steps:100:200:300` of equal lengths; `spike:100:1000`, in the
    middle tenth; `diurnal:100:500`, one day's wave over the whole duration, from its lowest to its highest rate and back.

    Raises:
        ValueError: the text has none of these forms.
    """
    shape, *numbers = text.split(":") if ":" in text else ("constant", text)
    rates = [float(number) for number in numbers]
    if any(not 0 <= rate < math.inf for rate in rates) or not rates:
        raise ValueError(f"rate: expected rates of at least 0, got {text!r}")
    if shape == "constant" and len(rates) == 1:
        return [(0.0, rates[0]), (duration, rates[0])]
    if shape == "ramp" and len(rates) == 2:
        return [(0.0, rates[0]), (duration, rates[1])]
    if shape == "steps":
        length = duration / len(rates)
        return [point for i, rate in enumerate(rates) for point in ((i * length, rate), ((i + 1) * length, rate))]
    if shape == "spike" and len(rates) == 2:
        low, high, begin, end = *rates, 0.45 * duration, 0.55 * duration
        return [(0.0, low), (begin, low), (begin, high), (end, high), (end, low), (duration, low)]
    if shape == "diurnal" and len(rates) == 2:
        middle, swing = (rates[0] + rates[1]) / 2, (rates[1] - rates[0]) / 2
        turns = [i / DIURNAL_POINTS for i in range(DIURNAL_POINTS + 1)]
        return [(turn * duration, middle - swing * math.cos(2 * math.pi * turn)) for turn in turns]
    raise ValueError(f"rate: expected a number, ramp:A:B, steps:A:B:…, spike:A:B or diurnal:A:B, got {text!r}")


def scaled(points: Sequence[Point], share: float) -> list[Point]:
    """Return a profile with every rate multiplied by `share`: the part of one of several generator processes."""
    return [(at, rate * share) for at, rate in points]


def rate_arrivals(points: Sequence[Point], draw: random.Random, poisson: bool = True) -> Iterator[Due]:
    """Yield arrivals at the profile's rate: a Poisson process, or evenly spaced.

    The k-th arrival is where the integral of the rate reaches the k-th of a unit-rate process (the time-change theorem).
    """
    reached, wanted = 0.0, draw.expovariate(1.0) if poisson else draw.random()
    for (start, first), (end, last) in pairwise(points):
        area = (first + last) / 2 * (end - start)
        while wanted <= reached + area and area > 0:
            yield Due(start + _invert(wanted - reached, first, (last - first) / (end - start)))
            wanted += draw.expovariate(1.0) if poisson else 1.0
        reached += area


def _invert(area: float, rate: float, slope: float) -> float:
    """Return the t at which `rate * t + slope * t² / 2` reaches `area`."""
    if abs(slope) * area < 1e-9 * rate * rate:
        return area / rate
    return (math.sqrt(max(0.0, rate * rate + 2 * slope * area)) - rate) / slope


def trace_arrivals(path: Path, share: int = 1, part: int = 0) -> Iterator[Due]:
    """Yield recorded arrivals: a file with one time in seconds a line, in order. Of `share` processes, process `part` takes its lines.

    Raises:
        ValueError: a line is no number, or earlier than the one before.
    """
    before = 0.0
    with path.open() as lines:
        for number, line in enumerate(lines):
            at = float(line)
            if at < before:
                raise ValueError(f"{path}:{number + 1}: {at} s is earlier than the line before, {before} s")
            before = at
            if number % share == part:
                yield Due(at)


def population_arrivals(sessions: Sequence[int], cadence: float, jitter: float, duration: float, draw: random.Random) -> Iterator[Due]:
    """Yield the moments at which the sessions are due: each once every `cadence` seconds, on a clock of its own.

    Args:
        sessions: their numbers.
        cadence: mean seconds between two observations of one session.
        jitter: share of the cadence by which a moment may lie earlier or later.
        duration: seconds after which nothing is due.
        draw: the source of chance.
    """
    phases = [(draw.random() * cadence, session) for session in sessions]
    heap = [(phase, phase, session) for phase, session in phases]  # due, tick of the session's clock, session
    heapq.heapify(heap)
    while heap and heap[0][0] < duration:
        due, tick, session = heap[0]
        yield Due(due, session)
        tick += cadence
        heapq.heapreplace(heap, (max(due, tick + jitter * cadence * draw.uniform(-0.5, 0.5)), tick, session))
