"""Count and time what a load test did, so that several generator processes can be added up.

Latencies are microseconds in HdrHistograms with three significant digits. An open-loop latency counts from the moment a request was due.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtests.load.checks import Problem

LOWEST, HIGHEST = 1, 3_600_000_000  # microseconds
DIGITS, SECOND_DIGITS = 3, 2  # significant digits of a whole run, and of one second
EXAMPLES = 5  # details kept of each problem


def histogram(digits: int = DIGITS) -> HdrHistogram:
    """Return an empty histogram of microseconds."""
    return HdrHistogram(LOWEST, HIGHEST, digits)


def record(into: HdrHistogram, seconds: float) -> None:
    """Record a duration."""
    into.record_value(min(HIGHEST, max(LOWEST, round(seconds * 1e6))))


@dataclass
class Second:
    """What was answered in one second of the run."""

    latencies: HdrHistogram = field(default_factory=lambda: histogram(SECOND_DIGITS))
    due: int = 0
    answered: int = 0
    failed: int = 0
    wrong: int = 0


@dataclass
class Kind:
    """What became of the requests of one kind, warm-up excluded. `failed` counts every attempt, also one that a retry put right."""

    latencies: HdrHistogram = field(default_factory=histogram)
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    retried: int = 0  # requests that were answered right after one or more failed attempts
    given_up: int = 0  # requests that were never answered


@dataclass
class Measurements:
    """The numbers of one generator process, or of several added up. Seconds count from the start of the load."""

    warm_up: float = 0.0
    kinds: defaultdict[str, Kind] = field(default_factory=lambda: defaultdict(Kind))
    seconds: defaultdict[int, Second] = field(default_factory=lambda: defaultdict(Second))
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    lateness: HdrHistogram = field(default_factory=histogram)  # of requests that a free connection waited for
    unsent: int = 0  # requests that were due and never sent
    waited: int = 0  # requests for which no connection was free when they were due
    largest_difference: float = 0.0
    processor: dict[str, float] = field(default_factory=dict)  # busiest share of one core, by generator process
    connections: int = 0  # most in use at once

    def due(self, at: float) -> None:
        """Count a request that became due `at` seconds after the start."""
        self._second(at).due += 1

    def answer(self, kind: str, due: float, latency: float, problem: Problem | None, failures: int = 0) -> None:
        """Count a request that was done.

        Args:
            kind: the request's name in reports.
            due: when it was due, in seconds since the start.
            latency: seconds from then until its last answer.
            problem: what is wrong with the last answer.
            failures: attempts that failed before the last one; each was told to `attempt_failed` when it happened.
        """
        second = self._second(due + latency)
        record(second.latencies, latency)
        wrong, failed = problem is not None and problem.wrong, problem is not None and not problem.wrong
        second.answered += not failed
        second.failed += failed
        second.wrong += wrong
        if due < self.warm_up and not wrong:
            return
        entry = self.kinds[kind]
        record(entry.latencies, latency)
        entry.answered += not failed
        entry.failed += failures + failed
        entry.wrong += wrong
        entry.retried += failures > 0 and not failed
        entry.given_up += failed

    def attempt_failed(self, at: float, problem: Problem) -> None:
        """Count an attempt that failed `at` seconds after the start, and is followed by another one."""
        self._second(at).failed += 1
        self.problem(problem)

    def problem(self, problem: Problem) -> None:
        """Count what was wrong with one attempt, and keep a few details."""
        self.problems[problem.name] += 1
        details = self.examples.setdefault(problem.name, [])
        if len(details) < EXAMPLES:
            details.append(problem.detail)

    def late(self, seconds: float) -> None:
        """Record how much later than due the generator sent a request although a connection was free."""
        record(self.lateness, seconds)

    def _second(self, at: float) -> Second:
        return self.seconds[int(at)]

    # Between processes.

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as values that JSON and MessagePack can carry."""
        plain = {name: getattr(self, name) for name in ("warm_up", "unsent", "waited", "largest_difference", "connections", "examples")}
        kinds = {name: vars(kind) | {"latencies": _encoded(kind.latencies)} for name, kind in self.kinds.items()}
        seconds = {str(at): vars(second) | {"latencies": _encoded(second.latencies)} for at, second in self.seconds.items()}
        more = {"problems": dict(self.problems), "processor": dict(self.processor), "lateness": _encoded(self.lateness)}
        return {**plain, **more, "kinds": kinds, "seconds": seconds}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Measurements":
        """Read what `to_dict` returned."""
        return cls(warm_up=document["warm_up"]).add(document)

    def add(self, document: Mapping[str, Any]) -> "Measurements":
        """Add what `to_dict` of another process returned; return this object."""
        for name, other in document["kinds"].items():
            _add(self.kinds[name], other)
        for at, other in document["seconds"].items():
            _add(self.seconds[int(at)], other)
        self.problems.update(document["problems"])
        for name, details in document["examples"].items():
            self.examples[name] = [*self.examples.get(name, []), *details][:EXAMPLES]
        self.lateness.decode_and_add(document["lateness"])
        self.unsent += document["unsent"]
        self.waited += document["waited"]
        self.connections += document["connections"]
        self.largest_difference = max(self.largest_difference, document["largest_difference"])
        for process, share in document["processor"].items():
            self.processor[process] = max(share, self.processor.get(process, 0.0))
        return self

    def clear(self) -> None:
        """Forget everything but the warm-up, after the numbers were handed over."""
        vars(self).update(vars(Measurements(self.warm_up)))

    # Over all kinds.

    def total(self) -> Kind:
        """Return the sum of all kinds."""
        total = Kind()
        for kind in self.kinds.values():
            _add(total, vars(kind) | {"latencies": _encoded(kind.latencies)})
        return total


def percentile(latencies: HdrHistogram, percent: float) -> float:
    """Return the latency in milliseconds that `percent` of the requests did not exceed; 0 where there were none."""
    return float(latencies.get_value_at_percentile(percent)) / 1e3 if latencies.get_total_count() else 0.0


def _encoded(latencies: HdrHistogram) -> str:
    encoded = latencies.encode()
    return encoded.decode() if isinstance(encoded, bytes) else encoded


def _add(into: Kind | Second, other: Mapping[str, Any]) -> None:
    into.latencies.decode_and_add(other["latencies"])
    for name, value in other.items():
        if name != "latencies":
            setattr(into, name, getattr(into, name) + value)
