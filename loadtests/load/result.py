"""The outcome of a run: verdict, sentence and JSON document, and JUnit for continuous integration."""

import datetime
import os
import platform
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from loadtests.load.findings import Finding, findings, generator_limits
from loadtests.load.measurements import Kind, Measurements, percentile
from loadtests.load.objectives import Objective, Outcome, hold

FORMAT = 1
PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"
CODES = {PASSED: 0, FAILED: 1, NOT_MEASURED: 3}  # exit codes; 2 is a run that could not begin
PERCENTILES = (50, 75, 90, 95, 99, 99.9, 99.99, 100)
TIMED = ("_ms", "per_second")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to the deployment during the run, in seconds since its start."""

    at: float
    until: float
    what: str


@dataclass
class Result:
    """Everything that is known of a run."""

    measurements: Measurements
    seconds: float  # measured, warm-up excluded
    outcomes: list[Outcome]
    findings: list[Finding]
    limits: list[str]  # where the generator is what was measured
    missing: list[str]  # kinds that should have been asked for and were not
    about: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    server: list[dict[str, Any]] = field(default_factory=list)  # scraped metrics, with `at`

    @property
    def verdict(self) -> str:
        """Passed, failed, or not measured: where the generator was the limit, a bound on time that was missed says nothing of the server.

        A bound that was kept was kept all the same: the generator's own lateness is part of what was measured.
        """
        missed = [outcome for outcome in self.outcomes if not outcome.kept]
        if not missed and not self.missing:
            return PASSED
        only_time = all(outcome.objective.measure.endswith(TIMED) for outcome in missed)
        return NOT_MEASURED if self.limits and only_time and not self.missing else FAILED

    @property
    def code(self) -> int:
        """The exit code."""
        return CODES[self.verdict]

    def sentence(self) -> str:
        """Describe the outcome in one line."""
        total = self.measurements.total()
        numbers = f"{total.answered:,} requests answered, {total.answered / max(self.seconds, 1e-9):,.0f} a second"
        times = ", ".join(f"p{percent:g} {percentile(total.latencies, percent):,.1f} ms" for percent in (50, 99, 99.99))
        parity = f"largest difference {self.measurements.largest_difference:.1e}, allowed {self.about.get('tolerance', 0):.0e}"
        reasons = [f"never asked: {', '.join(self.missing)}: use more users, or fewer scenarios"] if self.missing else []
        reasons += [str(outcome) for outcome in self.outcomes if not outcome.kept]
        reasons += self.limits if self.verdict == NOT_MEASURED else []
        why = f" ({'; '.join(reasons)})" if reasons else ""
        return f"{self.verdict}{why}: {numbers}, {times}; {total.failed:,} failed, {total.wrong:,} wrong ({parity})"

    def integrity(self) -> str:
        """Say whether steps were lost or repeated: each answer of a session was held against its position and the offline prediction."""
        total = self.measurements.total()
        if total.wrong:
            return f"{total.wrong:,} answers were wrong: steps may have been lost or repeated"
        if total.given_up or self.measurements.unsent:
            unanswered = total.given_up + self.measurements.unsent
            return f"no answered step was lost or repeated; {unanswered:,} requests were never answered"
        return "no step was lost or repeated, and every request was answered in the end"

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        kinds = {**dict(sorted(self.measurements.kinds.items())), "all requests": self.measurements.total()}
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "seconds": self.seconds,
            "objectives": [{**o.objective._asdict(), "measured": o.measured, "kept": o.kept} for o in self.outcomes],
            "findings": [finding._asdict() for finding in self.findings],
            "generator_limits": self.limits,
            "missing": self.missing,
            "kinds": {name: summary(kind, self.seconds) for name, kind in kinds.items()},
            "about": self.about,
            "events": [asdict(event) for event in self.events],
            "server": self.server,
            "measurements": self.measurements.to_dict(),
        }

    def write(self, folder: Path) -> None:
        """Write `result.json` and `junit.xml`."""
        (folder / "result.json").write_bytes(orjson.dumps(self.document(), option=orjson.OPT_INDENT_2))
        (folder / "junit.xml").write_bytes(junit(self))


def judged(
    measurements: Measurements,
    seconds: float,
    objectives: Sequence[Objective],
    kinds: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> Result:
    """Judge a run. `kinds` are beginnings of names, of each of which something must have been asked."""
    missing = [
        kind
        for kind in kinds
        if not any((name == kind or name.startswith(f"{kind}:")) and k.answered for name, k in measurements.kinds.items())
    ]
    outcomes = hold(objectives, measurements, seconds)
    return Result(measurements, seconds, outcomes, findings(measurements), generator_limits(measurements), missing, dict(about or {}))


def load(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        ValueError: not a result of this format.
        OSError: the file cannot be read.
    """
    document = orjson.loads(path.read_bytes())
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: not the result of a load test of format {FORMAT}")
    outcomes = [Outcome(Objective(o["kind"], o["measure"], o["bound"]), o["measured"]) for o in document["objectives"]]
    found = [Finding(f["name"], f["sentence"]) for f in document["findings"]]
    events = [Event(e["at"], e["until"], e["what"]) for e in document["events"]]
    measurements = Measurements.from_dict(document["measurements"])
    limits, missing = document["generator_limits"], document["missing"]
    return Result(measurements, document["seconds"], outcomes, found, limits, missing, document["about"], events, document["server"])


def summary(kind: Kind, seconds: float) -> dict[str, Any]:
    """Return the numbers of one kind of request; latencies in milliseconds."""
    counts = {name: getattr(kind, name) for name in ("answered", "failed", "wrong", "retried", "given_up")}
    percentiles = {f"p{percent:g}": percentile(kind.latencies, percent) for percent in PERCENTILES}
    return {**counts, "per_second": kind.answered / seconds if seconds else 0.0, "ms": percentiles}


def junit(result: Result) -> bytes:
    """Return a JUnit report: one test case for each objective, and one for the load generator."""
    suite = ET.Element("testsuite", name="load test", time=f"{result.seconds:.1f}")
    cases = [(f"{o.objective.kind}: {o.objective.measure}", "" if o.kept else str(o)) for o in result.outcomes]
    cases.append(("every kind of request was asked", f"never asked: {', '.join(result.missing)}" if result.missing else ""))
    for name, failure in cases:
        case = ET.SubElement(suite, "testcase", classname="loadtests", name=name)
        if failure:
            ET.SubElement(case, "failure", message=failure)
    generator = ET.SubElement(suite, "testcase", classname="loadtests", name="the generator was fast enough")
    if result.limits:
        ET.SubElement(generator, "skipped", message="; ".join(result.limits))
    suite.set("tests", str(len(cases) + 1))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True))


def machine() -> dict[str, Any]:
    """Describe the machine that generates the load, and the code that does."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": done.stdout.strip() if done.returncode == 0 else "",
    }
