"""Connect a load test to Locust: what a process prepares at start, and how the processes' numbers are added up.

Whatever way Locust runs (web interface, headless, `--processes`, master and workers), every process counts in its own `Measurements` and
the process that reports adds them up.
"""

import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import orjson
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from host.archives import find
from loadtests.load.answers import Answers
from loadtests.load.arrivals import Due, population_arrivals, profile, rate_arrivals, scaled, trace_arrivals
from loadtests.load.checks import Checker, Problem
from loadtests.load.driver import Driver
from loadtests.load.exchange import Exchange
from loadtests.load.flows import meter
from loadtests.load.measurements import Measurements, percentile
from loadtests.load.open_loop import Flows, OpenLoop
from loadtests.load.options import open_loop_asked, target_of
from loadtests.load.preflight import PreflightError, preflight
from loadtests.load.scenarios import SCENARIOS, parse_mix
from loadtests.load.selection import choose
from loadtests.load.users import OpenLoopUser, ScenarioUser
from loadtests.offline import OfflineModel

GRACE = 10.0  # seconds after the last arrival in which open requests are finished
PROGRESS = 2.0  # seconds between two lines of progress
ENDED = "generator_ended"


class WrongAnswer(Exception):
    """An answer is not the offline one. Locust shows it apart from failed requests."""


class RequestFailed(Exception):
    """A request was refused or not answered."""


class Run:
    """One process of a load test. Locust's environment carries what the users need."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.options = environment, environment.parsed_options
        if self.options.skip_log_setup:  # of `python -m loadtests`, which connects all users at once on purpose
            logging.getLogger("locust").setLevel(logging.ERROR)
        self.measurements = Measurements(self.options.warm_up)
        self.answers = self._answers()
        self.checker = Checker(self.answers)
        self.driver = Driver(self.measurements, self.checker, self.options.retry_seconds, self._fire)
        self.open_loop: OpenLoop | None = None
        self._ended = 0
        environment.driver = self.driver
        environment.user_classes = self._user_classes()

    def _answers(self) -> Answers:
        if self.options.expected:
            return Answers.load(Path(self.options.expected))
        archive = choose(find(Path(self.options.store)), self.options.model)
        return Answers.compute(OfflineModel(archive.path), self.options.seed)

    def _user_classes(self) -> list[type[Any]]:
        if open_loop_asked(self.options):
            return [type("OpenLoop", (OpenLoopUser,), {})]
        mix = parse_mix(self.options.scenarios) if self.options.scenarios else {}
        chosen: list[type[ScenarioUser]] = [
            user
            for user in self.environment.user_classes
            if SCENARIOS[user.scenario].fits(self.answers) and (not mix or user.scenario in mix)
        ]
        for user in chosen:
            user.weight = mix.get(user.scenario, user.weight)
        return list(chosen)

    def _fire(self, exchange: Exchange, latency: float, problem: Problem | None) -> None:
        """Tell Locust of a request that was done."""
        error = None
        if problem is not None:
            error = (WrongAnswer if problem.wrong else RequestFailed)(f"{problem.name}: {problem.detail}")
        self.environment.events.request.fire(
            request_type="POST", name=exchange.kind, response_time=latency * 1e3, response_length=0, exception=error, context={}
        )

    # The course of a test.

    def start(self) -> None:
        """Check the deployment, then begin counting and sending."""
        runner = self.environment.runner
        self.environment.target = target_of(self.environment.host or "", self.answers.model, self.options)
        if not isinstance(runner, WorkerRunner) and not self._preflight():
            return
        self.measurements.clear()
        self.driver.restart()
        if self.options.totals and not isinstance(runner, WorkerRunner):
            Path(f"{self.options.totals}.started").write_text(str(time.time()))
        if isinstance(runner, MasterRunner):
            return
        gevent.spawn(self._watch_processor)
        if open_loop_asked(self.options):
            prefix = f"load-{secrets.token_hex(4)}"
            self.open_loop = OpenLoop(self.driver, self._flows(prefix), self._schedule(), GRACE, self._end)
            self.environment.open_loop = self.open_loop
            gevent.spawn(self.open_loop.run)

    def stop(self) -> None:
        """Wake the connections that wait for something to be due."""
        if self.open_loop is not None:
            self.open_loop.close()

    def _preflight(self) -> bool:
        try:
            preflight(self.environment.target, self.checker)
        except PreflightError as e:
            print(f"load: {e}", file=sys.stderr, flush=True)
            self.environment.process_exit_code = 2
            gevent.spawn(self.environment.runner.quit if self.options.headless else self.environment.runner.stop)
            return False
        return True

    def _flows(self, prefix: str) -> Flows:
        if self.options.sessions:
            return Flows(self.checker, {"meter": meter}, {"meter": 1}, prefix, self.options.seed)
        mix = {name: weight for name, weight in parse_mix(self.options.scenarios).items() if SCENARIOS[name].fits(self.answers)}
        return Flows(self.checker, {name: SCENARIOS[name].flow for name in mix}, mix, prefix, self.options.seed)

    def _schedule(self) -> Iterator[Due]:
        """Return this process's share of what is due."""
        options, (part, share) = self.options, self._part()
        draw, duration = random.Random(f"{options.seed} {part}"), options.warm_up + options.duration
        if options.trace:
            return trace_arrivals(Path(options.trace), share, part)
        if options.sessions:
            return population_arrivals(range(part, options.sessions, share), options.cadence, options.jitter, duration, draw)
        return rate_arrivals(scaled(profile(options.rate, duration), 1 / share), draw, not options.evenly)

    def _part(self) -> tuple[int, int]:
        """Return this process's index among the generator processes, and their number."""
        runner = self.environment.runner
        if not isinstance(runner, WorkerRunner):
            return 0, 1
        share = self.options.expect_workers or 1
        return runner.worker_index % share, share

    def _end(self) -> None:
        """End the test where this process decides that; else tell the master that this process is done."""
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(ENDED)
        elif self.options.headless:
            runner.quit()

    def worker_ended(self, **_: Any) -> None:
        """Count a worker that is done; after the last one, end the test."""
        self._ended += 1
        if self._ended >= (self.options.expect_workers or 1) and self.options.headless:
            gevent.spawn_later(1.0, self.environment.runner.quit)

    def _watch_processor(self) -> None:
        """Remember the largest share of a core that this process took in any two seconds after the first."""
        name = f"{os.uname().nodename} {os.getpid()}"
        gevent.sleep(2.0)
        while True:
            began, used = time.perf_counter(), time.process_time()
            gevent.sleep(2.0)
            share = (time.process_time() - used) / (time.perf_counter() - began)
            self.measurements.processor[name] = max(share, self.measurements.processor.get(name, 0.0))

    # Results.

    def report(self, data: dict[str, Any]) -> None:
        """Hand this worker's numbers over to the master."""
        data["cellstate"] = self.measurements.to_dict()
        self.measurements.clear()

    def received(self, data: dict[str, Any]) -> None:
        """Add the numbers of a worker."""
        if "cellstate" in data:
            self.measurements.add(data["cellstate"])

    def show_progress(self) -> None:
        """Print a line every few seconds while the test runs."""
        while True:
            gevent.sleep(PROGRESS)
            if (line := progress(self.measurements)) and self.environment.runner.state in ("running", "spawning"):
                print(line, file=sys.stderr, flush=True)

    def write(self) -> None:
        """Write the totals."""
        if not self.options.totals:
            return
        about = {name: getattr(self.answers, name) for name in ("model", "version", "digest", "tolerance")}
        document = {"about": about, "measurements": self.measurements.to_dict()}
        Path(self.options.totals).write_bytes(orjson.dumps(document))


def progress(measurements: Measurements) -> str:
    """Describe the last whole second in a line; empty before there is one."""
    if len(measurements.seconds) < 2:
        return ""
    at = sorted(measurements.seconds)[-2]
    second, all_seconds = measurements.seconds[at], measurements.seconds.values()
    failed, wrong = sum(s.failed for s in all_seconds), sum(s.wrong for s in all_seconds)
    latencies = f"p50 {percentile(second.latencies, 50):.1f} ms, p99 {percentile(second.latencies, 99):.1f} ms"
    return f"load: {at + 1:4d} s: {second.answered:,} answered in the last second, {latencies}; so far {failed:,} failed, {wrong:,} wrong"
