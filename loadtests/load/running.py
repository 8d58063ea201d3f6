"""Run a load test: start a server or take a running one, run Locust against it, scrape, do harm, and judge."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from host.ports import HostError
from host.torchserve.launcher import TorchServe, serving
from loadtests.load.faults import Fault, Faults
from loadtests.load.measurements import Measurements
from loadtests.load.objectives import Objective
from loadtests.load.result import Result, judged, machine
from loadtests.load.server_metrics import Scraper
from loadtests.load.transport import authorization

ROOT = Path(__file__).resolve().parents[2]
GRACE = 12.0  # seconds in which Locust finishes what is open, and ends
STOP_TIMEOUT = 2  # seconds that a closed-loop user may take for its last requests
SAMPLE = 1.0  # seconds between two looks at the server's metrics


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is tested. `server` is set where this process started it."""

    url: str
    token: str
    metrics: str = ""
    server: TorchServe | None = None


@dataclass(frozen=True)
class Plan:
    """One run. The fields are those of the command line; an empty rate and no sessions mean a closed loop."""

    store: Path
    model: str
    seconds: float = 30.0
    users: int = 32
    processes: int = 1
    scenarios: str = ""
    rate: str = ""
    evenly: bool = False
    trace: str = ""
    sessions: int = 0
    cadence: float = 10.0
    jitter: float = 0.1
    warm_up: float = 0.0
    retry_seconds: float = 0.0
    seed: int = 0
    expected: str = ""
    insecure: bool = False
    authority: str = ""
    faults: tuple[Fault, ...] = field(default=())

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent when they are due."""
        return bool(self.rate or self.trace or self.sessions)

    def locust_options(self) -> list[str]:
        """Return the options for `loadtests/locustfile.py`."""
        values = {
            "store": self.store, "model": self.model, "scenarios": self.scenarios, "rate": self.rate, "trace": self.trace,
            "sessions": self.sessions, "cadence": self.cadence, "jitter": self.jitter, "duration": self.seconds,
            "warm-up": self.warm_up, "retry-seconds": self.retry_seconds, "seed": self.seed, "expected": self.expected,
            "authority": self.authority,
        }  # fmt: skip
        options = [word for name, value in values.items() if value not in ("", 0) for word in (f"--{name}", str(value))]
        options += ["--evenly"] * self.evenly + ["--insecure"] * self.insecure
        # With processes of its own Locust is a master, and --processes 1 would be a master with one worker.
        options += ["--processes", str(self.processes), "--expect-workers", str(self.processes)] if self.processes > 1 else []
        length = self.warm_up + self.seconds + (GRACE if self.open_loop else 0.0)
        size = ["--users", str(self.users), "--spawn-rate", str(self.users), "--run-time", f"{length:.0f}s"]
        return [*size, "--stop-timeout", str(STOP_TIMEOUT), *options]

    def about(self) -> dict[str, Any]:
        """Return the configuration for a report."""
        fields = {name: value for name, value in vars(self).items() if value not in ("", 0, False, ())}
        return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items() if name != "faults"}


class RunFailed(Exception):
    """A run could not begin, or ended without numbers."""


@contextmanager
def deployed(
    store: Path, report: Path, url: str = "", token: str = "", metrics: str = "", environment: dict[str, str] | None = None
) -> Iterator[Deployment]:
    """Yield the server at `url`, or one started for the block over the archives in `store`."""
    if url:
        yield Deployment(url.rstrip("/"), token, metrics)
        return
    with tempfile.TemporaryDirectory(prefix="cellstate-load-") as folder:
        try:
            with serving(Path(folder), store, environment=environment or {}) as server:
                yield Deployment(server.url, f"@{server.first_key}", server.metrics_url, server)
        finally:
            if (log := Path(folder) / "server.log").exists():
                shutil.copy(log, report / log.name)


def run(plan: Plan, deployment: Deployment, report: Path, objectives: Sequence[Objective], kinds: Sequence[str] = ()) -> Result:
    """Run a plan, and judge it.

    Args:
        plan: what to do.
        deployment: what to do it to.
        report: the folder for files.
        objectives: what has to be kept.
        kinds: of each of these something must have been asked.

    Raises:
        RunFailed: the run could not begin, or Locust ended without numbers.
    """
    totals, started = report / "totals.json", report / "totals.json.started"
    for path in (totals, started):
        path.unlink(missing_ok=True)
    faults, scraper = (
        Faults(plan.faults, deployment.server, plan.model, plan.seed),
        Scraper(deployment.metrics, authorization(deployment.token)),
    )
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--host", deployment.url, "--headless"]
    quiet = ["--skip-log-setup", "--totals", str(totals), *plan.locust_options()]
    environment = {**os.environ, "LOADTEST_TOKEN": deployment.token}
    process = subprocess.Popen([*command, *quiet], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        _follow(process, started, plan, faults, scraper)
    finally:
        faults.stop()
        if process.poll() is None:
            process.terminate()
            process.wait(30)
    if not totals.exists() or process.returncode == 2:
        raise RunFailed("the load could not begin" if process.returncode == 2 else f"Locust ended with {process.returncode}; see {report}")
    return _result(totals, plan, deployment, faults, scraper, objectives, kinds)


def _follow(process: "subprocess.Popen[bytes]", started: Path, plan: Plan, faults: Faults, scraper: Scraper) -> None:
    """Scrape and do harm while Locust runs. Raises HostError when Locust does not end."""
    begin, end = 0.0, time.time() + plan.warm_up + plan.seconds + 60 + 3 * GRACE
    while process.poll() is None:
        if time.time() > end:
            raise HostError("Locust did not end after its time")
        if not begin and started.exists() and (text := started.read_text()):
            begin = float(text)
            faults.start(begin)
        if begin:
            scraper.sample(time.time() - begin)
        try:
            process.wait(SAMPLE)
        except subprocess.TimeoutExpired:
            continue


def _result(
    totals: Path,
    plan: Plan,
    deployment: Deployment,
    faults: Faults,
    scraper: Scraper,
    objectives: Sequence[Objective],
    kinds: Sequence[str],
) -> Result:
    document = orjson.loads(totals.read_bytes())
    about = {**document["about"], "url": deployment.url, "plan": plan.about(), "machine": machine()}
    if deployment.server is not None:
        about["session_store"] = deployment.server.sessions.split("://")[0]
    result = judged(Measurements.from_dict(document["measurements"]), plan.seconds, objectives, kinds, about)
    return replace(result, events=faults.events, server=scraper.samples)
