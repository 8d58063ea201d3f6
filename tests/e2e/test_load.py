"""Load tests on a real TorchServe: passed where the server is right, failed on a wrong answer, ended at once where nothing can be tested.

`python -m loadtests` and plain Locust give the same numbers, from one process or several.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from host.torchserve.launcher import TorchServe
from loadtests.load.answers import Answers
from loadtests.load.checks import DIGITS
from loadtests.load.result import load
from loadtests.load.scenarios import SCENARIOS
from loadtests.offline import OfflineModel

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
TAMPERED = 7  # the step whose expected answers are falsified


def run(report: Path, *arguments: object, seconds: float = 4) -> subprocess.CompletedProcess[str]:
    """`python -m loadtests` as a user runs it, its reports in `report`."""
    command = [sys.executable, "-m", "loadtests", "--seconds", str(seconds), "--report", str(report), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def at(server: TorchServe) -> list[object]:
    return ["--url", server.url, "--token", f"@{server.first_key}", "--store", server.store, "--model", "two", "--users", 8]


def test_every_answer_is_right_and_a_stopped_worker_shows_in_the_latency(lone_store: Path, tmp_path: Path) -> None:
    """An open loop on a server of its own: what was due while the worker stood still waited for it."""
    harm = tmp_path / "faults.toml"
    harm.write_text('[[fault]]\nat = 3.0\ndo = "stop worker"\nseconds = 1.5\n')
    done = run(tmp_path, "--store", lone_store, "--rate", 60, "--faults", harm, "--warm-up", 1, seconds=7)
    result = load(tmp_path / "result.json")
    total = result.measurements.total()
    assert (total.failed, total.wrong, result.measurements.problems) == (0, 0, {}), done.stdout + done.stderr
    assert total.answered > 250
    p99 = next(outcome for outcome in result.outcomes if outcome.objective.measure == "p99_ms")
    assert p99.measured > 1_000
    assert not p99.kept
    assert result.verdict in ("failed", "not measured"), "a stall of 1.5 s breaks the default bound"
    assert any("stop worker for 1.5 s" in event.what for event in result.events)
    assert "load: fault: stop worker" in done.stdout
    assert {"report.html", "junit.xml", "server.log"} <= {path.name for path in tmp_path.iterdir()}


def test_a_right_server_passes_every_scenario(served: TorchServe, tmp_path: Path) -> None:
    slow = tmp_path / "objectives.toml"
    slow.write_text("[objectives]\nerrors = 0\nwrong = 0\n")  # the machine that tests may be slow
    done = run(tmp_path, *at(served), "--objectives", slow, "--scenarios", ",".join(SCENARIOS), "--users", len(SCENARIOS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "load: passed" in done.stdout
    kinds = {name.partition(":")[0] for name in load(tmp_path / "result.json").measurements.kinds}
    assert kinds == set(SCENARIOS)


def test_a_wrong_answer_fails_the_run(served: TorchServe, tmp_path: Path) -> None:
    """Falsified are the expectations: one side of the comparison is as good as the other."""
    right = Answers.compute(OfflineModel(served.store / "two-1.0.mar"))
    stream = right.stream.copy()
    stream[:, TAMPERED] += 100.0  # no other stream is near
    dataclasses.replace(right, stream=stream).save(tmp_path / "tampered.npz")
    done = run(tmp_path, *at(served), "--scenarios", "stream", "--expected", tmp_path / "tampered.npz", seconds=3)
    assert done.returncode == 1, done.stdout + done.stderr
    found = load(tmp_path / "result.json").measurements
    assert set(found.problems) == {DIGITS}
    assert 0 < found.total().wrong < found.total().answered / 5, "the other steps are still right"
    assert all(f"to {TAMPERED + 1}: prediction differs" in detail for detail in found.examples[DIGITS])


def test_a_wrong_token_ends_it_at_once_with_a_sentence(served: TorchServe, tmp_path: Path) -> None:
    done = run(tmp_path, *at(served), "--token", "not-the-token", seconds=100)
    assert done.returncode == 2
    assert "refuses the key" in done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_plain_locust_counts_the_same_from_one_process_or_several(served: TorchServe, tmp_path: Path, processes: int) -> None:
    """The offline answers are made at its start, and parity is measured wherever the requests are sent from."""
    totals = tmp_path / "totals.json"
    command = [str(Path(sys.executable).with_name("locust")), "-f", "loadtests/locustfile.py", "--host", served.url, "--headless"]
    options = ["-u", "4", "-r", "4", "-t", "4s", "--store", str(served.store), "--model", "two", "--totals", str(totals)]
    options += ["--processes", str(processes)] if processes > 1 else []
    environment = {**os.environ, "LOADTEST_TOKEN": f"@{served.first_key}"}
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(totals.read_text())["measurements"]
    assert 0.0 < found["largest_difference"] < 2e-5
    assert found["problems"] == {}
    aggregated = next(line for line in (done.stdout + done.stderr).splitlines()[::-1] if "Aggregated" in line)
    assert sum(kind["answered"] for kind in found["kinds"].values()) > 20, aggregated
