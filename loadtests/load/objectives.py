"""What a deployment has to keep: objectives from a TOML file or a line of text, held against the numbers of a run."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loadtests.load.measurements import Kind, Measurements, percentile

DEFAULT = Path(__file__).with_name("objectives.toml")
ALL = "all requests"
PERCENTILE = re.compile(r"p(\d{1,2}(?:_\d+)?)_ms")
AT_MOST = frozenset({"max_ms", "errors", "error_share", "wrong"})
AT_LEAST = frozenset({"answered", "answered_per_second"})
TERM = re.compile(r"(p\d{1,2}(?:\.\d+)?|max|errors|wrong|error_share)\s*(?:<=|<|=)\s*([\d.]+)\s*(ms|s)?")


class Objective(NamedTuple):
    """A bound on one measure of one kind of request, or of all of them."""

    kind: str
    measure: str
    bound: float

    @property
    def at_least(self) -> bool:
        """Whether the measure must reach the bound instead of staying within it."""
        return self.measure in AT_LEAST


@dataclass(frozen=True, slots=True)
class Outcome:
    """An objective and what was measured."""

    objective: Objective
    measured: float

    @property
    def kept(self) -> bool:
        """Whether the objective was kept."""
        bound = self.objective.bound
        return self.measured >= bound if self.objective.at_least else self.measured <= bound

    def __str__(self) -> str:
        sign = "at least" if self.objective.at_least else "at most"
        return f"{self.objective.kind}: {self.objective.measure} {_number(self.measured)}, {sign} {_number(self.objective.bound)}"


def read(path: Path) -> list[Objective]:
    """Read objectives from the `[objectives]` table of a TOML file; a table in it with a request's name holds those of that kind.

    Raises:
        ValueError: not TOML, or a measure that does not exist.
        OSError: the file cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text())["objectives"]
    except KeyError as e:
        raise ValueError(f"{path}: no [objectives] table") from e
    found = []
    for name, value in table.items():
        items = value.items() if isinstance(value, Mapping) else [(name, value)]
        found += [_objective(path, name if isinstance(value, Mapping) else ALL, measure, bound) for measure, bound in items]
    return found


def _objective(path: Path, kind: str, measure: str, bound: Any) -> Objective:
    if not (measure in AT_MOST | AT_LEAST or PERCENTILE.fullmatch(measure)):
        known = ", ".join(sorted(AT_MOST | AT_LEAST))
        raise ValueError(f"{path}: {measure!r} is no measure; there are p50_ms, p99_ms, p99_99_ms and the like, {known}")
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise ValueError(f"{path}: {measure} must be a number, got {bound!r}")
    return Objective(kind, measure, float(bound))


def parse(text: str) -> list[Objective]:
    """Read a line such as `p99<100ms, errors=0, wrong=0`.

    Raises:
        ValueError: a part of the line is no objective.
    """
    found = []
    for part in text.split(","):
        match = TERM.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"slo: expected parts such as p99<100ms, errors=0 or wrong=0, got {part.strip()!r}")
        name, number, unit = match.groups()
        timed = name.startswith("p") or name == "max"
        measure = f"{name.replace('.', '_')}_ms" if timed else name
        found.append(Objective(ALL, measure, float(number) * (1000.0 if unit == "s" else 1.0)))
    return found


def hold(objectives: Sequence[Objective], measurements: Measurements, seconds: float) -> list[Outcome]:
    """Hold the objectives against a run of so many measured seconds. A kind that was never asked for has answered nothing."""
    kinds = {**measurements.kinds, ALL: measurements.total()}
    return [Outcome(objective, measure(kinds.get(objective.kind, Kind()), objective.measure, seconds)) for objective in objectives]


def measure(kind: Kind, name: str, seconds: float) -> float:
    """Return one measure of one kind of request."""
    if match := PERCENTILE.fullmatch(name):
        return percentile(kind.latencies, float(match[1].replace("_", ".")))
    if name == "max_ms":
        return percentile(kind.latencies, 100.0)
    if name == "answered_per_second":
        return kind.answered / seconds if seconds else 0.0
    if name == "error_share":
        return kind.failed / (kind.answered + kind.failed) if kind.failed else 0.0
    return float({"errors": kind.failed, "wrong": kind.wrong, "answered": kind.answered}[name])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.3g}"
