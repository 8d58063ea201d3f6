"""Name what is unusual in a run: wrong answers by kind, errors that retries hid, stalls, growing latency, an overloaded generator."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loadtests.load.checks import REFUSED, WRONG
from loadtests.load.measurements import Measurements, percentile
from loadtests.offline import Array

STALL_FACTOR, STALL_MS = 2.0, 50.0  # a second is part of a stall when its p90 is so many times, and so much, above the run's
FEWEST_HITS, OCCUPIED = 4, 0.75  # stalls recur when so many of them, in this share of the moments, are a period apart
FEWEST_ALONE = 3  # so many are enough where there are no other stalls
SHORTEST_PERIOD, TOLERANCE = 3.0, 0.1  # seconds; share of a period, up to a second, by which a moment may differ
TREND_Z, TREND_SHARE, TREND_MS = 4.0, 0.3, 1.0  # a trend: significance, and growth over the run as a share of the start, and in ms
FEW_SECONDS = 10  # fewer have no trend
BUSY = 0.9  # share of a core above which a generator process is the limit
LATE_MS, LATE_SHARE = 5.0, 0.25  # a generator is the limit when its own p99 lateness is more than this, and this share of p99
RATE_CHANGE = 0.1  # share by which the offered rate may vary for a trend in latency to be the server's


class Finding(NamedTuple):
    """Something unusual: a name, and a sentence with numbers."""

    name: str
    sentence: str


def findings(measurements: Measurements) -> list[Finding]:
    """Return what is unusual in a run."""
    return [*wrong_answers(measurements), *errors(measurements), *outages(measurements), *stalls(measurements), *trend(measurements)]


def wrong_answers(measurements: Measurements) -> list[Finding]:
    """Return the kinds of wrong answers, with an example of each."""
    return [
        Finding(name, f"{count:,} times; for example: {measurements.examples[name][0]}")
        for name, count in measurements.problems.most_common()
        if name in WRONG
    ]


def errors(measurements: Measurements) -> list[Finding]:
    """Return the requests that failed, and those that only a retry put right."""
    total = measurements.total()
    found = []
    if total.given_up:
        name = next((name for name in measurements.problems if name not in WRONG), REFUSED)
        found.append(Finding("failed requests", f"{total.given_up:,} requests; for example: {measurements.examples[name][0]}"))
    if total.retried:
        hidden = total.failed - total.given_up
        found.append(
            Finding("errors hidden behind retries", f"{total.retried:,} requests were answered only after {hidden:,} failed attempts")
        )
    return found


def outages(measurements: Measurements) -> list[Finding]:
    """Return the whole seconds in which something was due and nothing was answered."""
    silent = [at for at, second in sorted(measurements.seconds.items()) if second.due and not second.answered]
    if not silent:
        return []
    parts = [f"{part[0]} to {part[-1] + 1}" for part in _neighbours(silent)]
    return [Finding("outage", f"nothing was answered in {len(silent)} seconds: from second {', '.join(parts[:8])}")]


def stalls(measurements: Measurements) -> list[Finding]:
    """Return the seconds in which nearly everything waited: whether they recur, and how long the waits were."""
    at, p90 = _series(measurements, 90)
    if len(at) < 3:
        return []
    usual = float(np.median(p90))
    groups = _neighbours([second for second, ms in zip(at, p90, strict=True) if ms > STALL_FACTOR * usual and ms > usual + STALL_MS])
    if not groups:
        return []
    starts = [group[0] for group in groups]
    longest = {group[0]: max(percentile(measurements.seconds[second].latencies, 100) for second in group) for group in groups}
    period, recurring = _period(starts, at[0], at[-1])
    if recurring:
        waits = np.median([longest[start] for start in recurring])
        return [Finding("periodic stall", f"{len(recurring)} stalls with waits of up to {waits:,.0f} ms, one every {period:.0f} s")]
    moments = ", ".join(str(start) for start in starts[:8])
    return [Finding("stall", f"{len(groups)}, the longest wait {max(longest.values()):,.0f} ms; at second {moments}")]


def _period(starts: Sequence[int], first: int, last: int) -> tuple[float, list[int]]:
    """Return the period at which most stalls recur, and those that do; among equals the longest period. No stalls where none is found."""
    best: tuple[float, list[int]] = (0.0, [])
    pairs = [(a, b) for a in starts for b in starts if b > a]
    for start, gap in {(a, (b - a) / parts) for a, b in pairs for parts in range(1, 7) if (b - a) / parts >= SHORTEST_PERIOD}:
        moments = [start + gap * turn for turn in range(math.ceil((first - start) / gap), math.floor((last - start) / gap) + 1)]
        near = [[s for s in starts if abs(s - moment) <= min(1.0, TOLERANCE * gap)] for moment in moments]
        hits = [found[0] for found in near if found]
        many = len(hits) >= FEWEST_HITS or len(hits) == len(starts) == FEWEST_ALONE
        enough = many and len(hits) >= OCCUPIED * len(moments)
        if enough and (len(hits), gap) > (len(best[1]), best[0]):
            best = gap, hits
    return best


def trend(measurements: Measurements) -> list[Finding]:
    """Return a latency that grows while the offered load does not: a Mann-Kendall test and the Theil-Sen slope of each second's median."""
    at, medians = _series(measurements, 50)
    if len(at) < FEW_SECONDS or not _steady([measurements.seconds[second].due for second in at]):
        return []
    differences = medians[None, :] - medians[:, None]
    pairs = np.triu_indices(len(medians), 1)
    score = float(np.sign(differences[pairs]).sum())
    n = len(medians)
    z = score / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    seconds = np.array(at, float)
    slope = float(np.median(differences[pairs] / (seconds[None, :] - seconds[:, None])[pairs]))
    growth, start = slope * (seconds[-1] - seconds[0]), float(np.median(medians[: max(3, n // 5)]))
    if z < TREND_Z or growth < max(TREND_MS, TREND_SHARE * start):
        return []
    return [
        Finding("growing latency", f"the median grows by {slope * 60:,.1f} ms a minute, from {start:,.1f} ms (Mann-Kendall z = {z:.1f})")
    ]


def generator_limits(measurements: Measurements) -> list[str]:
    """Say where the load generator, and not the deployment, was what is measured; empty where it was not."""
    found = []
    busiest = max(measurements.processor.values(), default=0.0)
    if busiest > BUSY:
        found.append(f"a generator process was busy for {busiest:.0%} of the time: use more --processes, or a lower rate")
    late, p99 = percentile(measurements.lateness, 99), percentile(measurements.total().latencies, 99)
    if late > LATE_MS and late > LATE_SHARE * p99:
        found.append(
            f"the generator sent 1 % of the requests {late:,.1f} ms late or later, of a p99 of {p99:,.1f} ms: its machine is too busy"
        )
    return found


def _neighbours(numbers: Sequence[int]) -> list[list[int]]:
    """Divide ascending numbers into runs without a gap."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _steady(due: Sequence[int]) -> bool:
    """Whether the offered load stayed the same. Without an open loop nothing is due, and the load follows the answers."""
    halves = np.array_split(np.array(due, float), 2)
    first, second = (float(half.mean()) for half in halves)
    return abs(second - first) <= RATE_CHANGE * max(first, second, 1.0) + 3 * math.sqrt(max(first, second) / len(halves[0]))


def _series(measurements: Measurements, percent: float) -> tuple[list[int], Array]:
    """Return the whole seconds after the warm-up in which something was answered, and a percentile of each in milliseconds."""
    at = [second for second in sorted(measurements.seconds) if second >= measurements.warm_up and measurements.seconds[second].answered]
    return at, np.array([percentile(measurements.seconds[second].latencies, percent) for second in at])
