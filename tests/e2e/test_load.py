"""The load test passes on a server that is right, and it can fail: on a wrong answer, on a refusal, on answers given to another stream."""

import csv
import dataclasses
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from loadtests.load.expected import CLOSE, KINDS, OPEN, RETRY, STEP, Expected, StreamRequest, script, wrong_session
from loadtests.offline import STEPS, OfflineModel

ROOT = Path(__file__).resolve().parents[2]
TAMPERED = 7  # the step whose expected answers are falsified


@pytest.fixture(scope="module")
def offline(store: Path) -> Expected:
    """The offline answers of the two-layer model."""
    return Expected.compute(OfflineModel(store / "two.mar"))


def load(report: Path, *arguments: object, seconds: int = 5) -> subprocess.CompletedProcess[str]:
    """`python -m loadtests` as a user runs it, its reports in `report`."""
    options = ["--seconds", seconds, "--users", 8, "--report", report, *arguments]
    command = [sys.executable, "-m", "loadtests", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def at(server: TorchServe) -> list[object]:
    return ["--url", server.url, "--token", server.token(), "--store", server.store, "--model", "two"]


def totals(report: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((report / "totals.json").read_text())
    return document


def failures(report: Path) -> list[dict[str, str]]:
    """Locust's table of failures; written every second, so the last of them may be missing."""
    with (report / "load_failures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
def test_every_answer_under_load_is_the_offline_one(lone_store: Path, tmp_path: Path) -> None:
    done = load(tmp_path, "--store", lone_store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "load: passed" in done.stdout
    assert "Aggregated" in done.stdout + done.stderr  # Locust's own summary
    found = totals(tmp_path)
    assert found["failures"] == 0
    assert all(found["requests"][kind] > 0 for kind in KINDS), found
    assert {"load.html", "load_stats.csv", "load_failures.csv", "server.log"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.e2e
def test_a_wrong_answer_fails_the_run(served: TorchServe, offline: Expected, tmp_path: Path) -> None:
    """Falsified are the expectations: one side of the comparison is as good as the other."""
    stream = offline.stream.copy()
    stream[:, TAMPERED] += 1.0
    dataclasses.replace(offline, stream=stream).save(tmp_path / "tampered.npz")
    done = load(tmp_path, *at(served), "--expected", tmp_path / "tampered.npz")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "load: FAILED" in done.stdout
    found = totals(tmp_path)
    assert 0 < found["failures"] < sum(found["requests"].values()) / 10, found  # the other steps, and the windows, are still right
    assert all(f"to {TAMPERED + 1}: prediction differs" in row["Error"] for row in failures(tmp_path))


@pytest.mark.e2e
def test_a_refusal_fails_the_run(served: TorchServe, tmp_path: Path) -> None:
    done = load(tmp_path, *at(served), "--token", "not-the-token", seconds=2)
    assert done.returncode == 1, done.stdout + done.stderr
    found = totals(tmp_path)
    assert found["failures"] == sum(found["requests"].values()) > 0
    assert all("status 400" in row["Error"] for row in failures(tmp_path))


def test_one_streams_answers_are_wrong_for_every_other(offline: Expected) -> None:
    """Else a service that mixed up two sessions would pass."""
    ask = StreamRequest(STEP, TAMPERED, TAMPERED + 1)
    right = {"prediction": offline.stream[0, TAMPERED].tolist()}
    assert offline.wrong_step(0, ask, right) == ""
    assert all(offline.wrong_step(row, ask, right) for row in range(1, len(offline.stream)))
    assert offline.wrong_step(0, StreamRequest(STEP, TAMPERED - 1, TAMPERED), right)


@pytest.mark.parametrize(
    "prediction",
    [None, "1.0", [], [1.0, 2.0], [[1.0]], [float("nan")], {"a": 1}],
    ids=["none", "text", "empty", "long", "deep", "nan", "object"],
)
def test_what_is_no_prediction_is_wrong(offline: Expected, prediction: object) -> None:
    assert offline.wrong_window(0, {"prediction": prediction})


@pytest.mark.parametrize(
    ("kind", "change"),
    [(OPEN, {"step": 0}), (STEP, {"id": "other"}), (STEP, {"replayed": True}), (RETRY, {"replayed": False}), (CLOSE, {"closed": False})],
)
def test_a_wrong_session_field_is_told(kind: str, change: dict[str, object]) -> None:
    ask = StreamRequest(kind, 0, 1)
    right: dict[str, object] = {"id": "s", "step": 1, "replayed": kind == RETRY} | ({"closed": True} if kind == CLOSE else {})
    assert wrong_session({"session": right}, ask, "s") == ""
    (name,) = change
    assert f"session.{name}" in wrong_session({"session": right | change}, ask, "s")
    assert wrong_session({}, ask, "s")


def test_a_script_sends_every_step_once_and_in_order() -> None:
    for seed in range(50):
        asks = list(script(STEPS, random.Random(seed)))
        sent = [ask for ask in asks if ask.kind not in (RETRY, CLOSE)]
        assert np.concatenate([range(ask.start, ask.stop) for ask in sent]).tolist() == list(range(STEPS))
        assert (asks[0].kind, asks[-1].kind) == (OPEN, CLOSE)
        assert [ask.kind for ask in asks].count(OPEN) == 1
        for before, ask in itertools.pairwise(asks):
            assert ask.kind != RETRY or (ask.start, ask.stop) == (before.start, before.stop)
