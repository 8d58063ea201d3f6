"""Find the most sessions, or the highest rate, that a deployment carries within a bound: grow until it breaks, bisect, confirm.

A load keeps the bound when its measured percentiles do and, for each of them, a one-sided 95 % bound on the share of slow requests does
(Wilson's score interval). A load is given up after it broke the bound in two windows. The answer is the largest load that keeps the
bound over a confirming window twice as long.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hdrh.histogram import HdrHistogram

from loadtests.load.objectives import PERCENTILE, Objective
from loadtests.load.result import NOT_MEASURED, PASSED, Result
from loadtests.load.running import Deployment, Plan, run
from loadtests.load.server_metrics import stages

GROWTH = 2.0
BACK_OFF = 0.9  # of a load that failed its confirmation
MAX_STEPS = 32
CONFIRM = 2.0  # length of the confirming window, in windows
Z = 1.645  # one-sided 95 %
HEADROOM = 0.7  # of the carried load: what to plan with


@dataclass(frozen=True, slots=True)
class Attempt:
    """One window at one load."""

    load: float
    kept: bool
    generator: bool  # the generator was the limit
    why: str


@dataclass
class Capacity:
    """What was found."""

    carried: float
    sentence: str
    attempts: list[Attempt] = field(default_factory=list)
    confirmation: Result | None = None


Measure = Callable[[float, float], Result]  # load, length in windows


def search(
    plan: Plan, deployment: Deployment, report: Path, objectives: Sequence[Objective], of: str, start: float, precision: float
) -> Capacity:
    """Search with real runs; see `bisect`."""

    def measure(load: float, windows: float) -> Result:
        chosen = {"sessions": round(load)} if of == "sessions" else {"rate": f"{load:g}"}
        return run(replace(plan, seconds=plan.seconds * windows, **chosen), deployment, report, objectives)

    found = bisect(measure, objectives, start, precision)
    found.sentence = sentence(found, plan, of, objectives)
    return found


def bisect(measure: Measure, objectives: Sequence[Objective], start: float, precision: float) -> Capacity:
    """Grow the load from `start` until the objectives break, bisect to within `precision`, and confirm the answer."""
    attempts: list[Attempt] = []

    def keeps(load: float, windows: float = 1.0) -> tuple[bool, Result]:
        result = measure(load, windows)
        attempt = _attempt(load, result, objectives)
        attempts.append(attempt)
        print(f"load: {load:,.0f}: {'kept' if attempt.kept else 'not kept'}{attempt.why}", flush=True)
        return attempt.kept, result

    low, high, load = 0.0, math.inf, start
    while len(attempts) < MAX_STEPS and (high - low > precision * max(low, 1.0)) and load >= 1:
        kept = keeps(load)[0] or keeps(load)[0]  # given up only after a second window: a moment's noise is no capacity
        low, high = (load, high) if kept else (low, load)
        load = low * GROWTH if high == math.inf else (low + high) / 2 if low else high / GROWTH
    while low >= 1 and len(attempts) < MAX_STEPS:
        kept, confirmation = keeps(low, CONFIRM)
        if kept:
            return Capacity(low, "", attempts, confirmation)
        low *= BACK_OFF
    return Capacity(0.0, "", attempts)


def _attempt(load: float, result: Result, objectives: Sequence[Objective]) -> Attempt:
    unsure = [text for objective in objectives if (text := _unsure(objective, result))]
    missed = [str(outcome) for outcome in result.outcomes if not outcome.kept]
    behind = [f"{result.measurements.unsent:,} requests were never sent"] if result.measurements.unsent else []
    reasons = [*missed, *unsure, *behind, *result.limits]
    kept = result.verdict == PASSED and not unsure and not behind
    return Attempt(load, kept, result.verdict == NOT_MEASURED, f" ({'; '.join(reasons)})" if reasons else "")


def _unsure(objective: Objective, result: Result) -> str:
    """Say that a percentile's bound may be broken in truth; empty where it is kept with 95 % confidence."""
    match = PERCENTILE.fullmatch(objective.measure)
    if match is None:
        return ""
    latencies = result.measurements.total().latencies
    count, slow, allowed = latencies.get_total_count(), above(latencies, objective.bound), 1 - float(match[1].replace("_", ".")) / 100
    if wilson(slow, count) <= allowed:
        return ""
    return f"{slow:,} of {count:,} requests took longer than {objective.bound:g} ms: too many, or too few requests, to be sure of it"


def above(latencies: HdrHistogram, milliseconds: float) -> int:
    """Return how many requests took longer."""
    recorded = latencies.get_recorded_iterator()
    return sum(item.count_at_value_iterated_to for item in recorded if item.value_iterated_to > milliseconds * 1e3)


def wilson(hits: int, count: int) -> float:
    """Return the upper end of the one-sided 95 % score interval of a share (E. B. Wilson, 1927)."""
    if count == 0:
        return 1.0
    share = hits / count
    middle, spread = share + Z * Z / (2 * count), Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return (middle + spread) / (1 + Z * Z / count)


def sentence(found: Capacity, plan: Plan, of: str, objectives: Sequence[Objective]) -> str:
    """Say what the deployment carries, as somebody who plans with it needs it."""
    bound = ", ".join(f"{objective.measure} {'≥' if objective.at_least else '≤'} {objective.bound:g}" for objective in objectives)
    if not found.carried or found.confirmation is None:
        return f"the deployment keeps {bound} at no load that was tried"
    what = (
        f"{found.carried:,.0f} sessions, each stepping every {plan.cadence:g} s"
        if of == "sessions"
        else f"{found.carried:,.0f} requests a second"
    )
    rate = f", {found.carried / plan.cadence:,.0f} steps a second" if of == "sessions" else ""
    seconds = plan.seconds * CONFIRM
    kept = f"this deployment carries {what}{rate} and keeps {bound} over {seconds:g} s, with 95 % confidence in the percentiles"
    plain = f"plan with {HEADROOM * found.carried:,.0f} for headroom"
    return f"{kept}; {_first(found)}; {_busy(found.confirmation)}{plain}"


def _first(found: Capacity) -> str:
    """Say what gives way first beyond the carried load."""
    broken = [attempt for attempt in found.attempts if not attempt.kept and attempt.load >= found.carried]
    if not broken:
        return "no higher load was tried"
    first = min(broken, key=lambda attempt: attempt.load)
    who = "the load generator" if first.generator else "the deployment"
    return f"at {first.load:,.0f} {who} is the limit{first.why}"


def _busy(result: Result) -> str:
    """Say what the server's workers were busy with."""
    busiest = list(stages(result.server).items())[:2]
    return f"workers spent {', '.join(f'{share:.2f} s a second in {name}' for name, share in busiest)}; " if busiest else ""
