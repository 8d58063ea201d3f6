"""Measure the load generator: how many checked requests it sends to a server that does nothing."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from host.archives import find
from loadtests.load.answers import Answers
from loadtests.load.measurements import percentile
from loadtests.load.result import Result
from loadtests.load.running import ROOT, Deployment, Plan, run
from loadtests.load.selection import choose
from loadtests.offline import OfflineModel


def ceiling(plan: Plan, report: Path) -> Result:
    """Run `plan` with the scenario `predict` against a null server that gives the one right answer."""
    answers = _one(Answers.compute(OfflineModel(choose(find(plan.store), plan.model).path), plan.seed))
    answers.save(report / "one.npz")
    with null_server(orjson.dumps({"prediction": answers.window[0].tolist(), "model": {"version": answers.version}})) as url:
        chosen = replace(plan, scenarios="predict", expected=str(report / "one.npz"))
        return run(chosen, Deployment(url, "none"), report, [])


def sentence(result: Result, processes: int) -> str:
    """Say what the generator can send."""
    total = result.measurements.total()
    busiest = max(result.measurements.processor.values(), default=0.0)
    rate = f"{total.answered / result.seconds:,.0f} checked requests a second from {processes} process{'es' if processes > 1 else ''}"
    return f"the generator sends {rate}, the busiest at {busiest:.0%} of a core; median {percentile(total.latencies, 50):.2f} ms"


@contextmanager
def null_server(body: bytes) -> Iterator[str]:
    """Yield the URL of a server, in a process of its own, that answers `body` to everything."""
    command = [sys.executable, "-m", "loadtests.load.null_server", body.decode()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def _one(answers: Answers) -> Answers:
    """Return the answers of the first sequence alone, so that one response is right for every request."""
    arrays = {name: getattr(answers, name)[:1] for name in ("x", "window", "stream", "forecast")}
    return replace(answers, **arrays, hidden={name: value[:1] for name, value in answers.hidden.items()})
