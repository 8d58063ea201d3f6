"""Compare two runs, and tell what changed from what is noise.

The seconds of a run are not independent, so the comparison resamples blocks of them (the moving-block bootstrap of Künsch, 1989) and gives
a 95 % interval for the ratio of the means. A change is one whose interval does not contain 1.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from loadtests.load.measurements import Second, percentile
from loadtests.load.result import Result
from loadtests.offline import Array

BLOCK, RESAMPLES, CONFIDENCE = 5, 4_000, 95.0  # seconds in a block; draws; percent
FEWEST = 10  # seconds of a run below which nothing is said
MEASURES: dict[str, Callable[[Second], float]] = {
    "answered a second": lambda second: float(second.answered),
    "p50 of a second, ms": lambda second: percentile(second.latencies, 50),
    "p90 of a second, ms": lambda second: percentile(second.latencies, 90),
    "p99 of a second, ms": lambda second: percentile(second.latencies, 99),
}


class Change(NamedTuple):
    """One measure in both runs, and the interval of its ratio, after over before."""

    measure: str
    before: float
    after: float
    low: float
    high: float

    @property
    def noise(self) -> bool:
        """Whether the runs may as well be alike."""
        return self.low <= 1.0 <= self.high


def compare(before: Result, after: Result, seed: int = 0) -> list[Change]:
    """Compare two runs measure by measure.

    Raises:
        ValueError: a run has fewer than ten whole seconds.
    """
    draw = np.random.default_rng(seed)
    return [_change(name, _series(before, of), _series(after, of), draw) for name, of in MEASURES.items()]


def _series(result: Result, of: Callable[[Second], float]) -> Array:
    measurements = result.measurements
    at = [second for second in sorted(measurements.seconds) if second >= measurements.warm_up and measurements.seconds[second].answered]
    if len(at) < FEWEST + 1:
        raise ValueError(f"compare: {len(at)} seconds of measurement are too few; at least {FEWEST + 1} are needed")
    return np.array([of(measurements.seconds[second]) for second in at[:-1]])  # the last one is not whole


def _change(name: str, before: Array, after: Array, draw: np.random.Generator) -> Change:
    ratios = _means(after, draw) / np.maximum(_means(before, draw), 1e-9)
    tail = (100.0 - CONFIDENCE) / 2
    low, high = np.percentile(ratios, [tail, 100.0 - tail])
    return Change(name, float(before.mean()), float(after.mean()), float(low), float(high))


def _means(values: Array, draw: np.random.Generator) -> Array:
    """Return the means of resampled series: blocks of neighbouring seconds, drawn with replacement."""
    blocks = -(-len(values) // BLOCK)
    starts = draw.integers(0, len(values) - BLOCK + 1, size=(RESAMPLES, blocks, 1))
    resampled = values[starts + np.arange(BLOCK)].reshape(RESAMPLES, -1)[:, : len(values)]
    return np.asarray(resampled.mean(axis=1))


def printed(changes: Sequence[Change]) -> str:
    """Return the comparison as a table."""
    lines = [f"{'measure':<22}{'before':>12}{'after':>12}   ratio, 95 % interval"]
    for change in changes:
        ratio = change.after / change.before if change.before else float("nan")
        said = "noise" if change.noise else "changed"
        numbers = f"{change.before:>12,.2f}{change.after:>12,.2f}"
        lines.append(f"{change.measure:<22}{numbers}   {ratio:.3f}, {change.low:.3f} to {change.high:.3f}: {said}")
    return "\n".join(lines)
