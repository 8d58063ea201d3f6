"""The report is one file that a browser opens, with what was found in front; faults and the server's metrics are in it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from host.torchserve.launcher import TorchServe
from loadtests.load import faults, objectives
from loadtests.load.checks import DIGITS, Problem
from loadtests.load.faults import Fault, Faults
from loadtests.load.report.page import page, write_report
from loadtests.load.result import Event, Result, judged
from loadtests.load.server_metrics import parse, stages
from tests.conftest import Exported
from tests.unit.test_load_judgement import measured

SCRAPED = """# TYPE cellstate_steps_applied_total counter
cellstate_steps_applied_total{model_name="two",model_version="1.0",} 40.0
cellstate_steps_applied_total{model_name="other",} 2.0
cellstate_stage_seconds_sum{stage="commit",model_name="two",} 1.5
cellstate_stage_seconds_sum{stage="run",model_name="two",} 0.25
cellstate_sessions{phase="live",} 7.0
cellstate_sessions{phase="ended",} 9.0
"""


@pytest.fixture
def result() -> Result:
    found = measured(lambda at: 0.01 + 0.3 * (20 <= at < 23))
    found.answer("stream: step", 30.0, 0.02, Problem(DIGITS, "off by <b>1e-3</b>"), failures=1)
    found.problem(Problem(DIGITS, "off by <b>1e-3</b>"))
    about = {"model": "two", "version": "1.0", "digest": "abc", "tolerance": 2e-5, "plan": {"rate": "100"}}
    result = judged(found, 60.0, objectives.read(objectives.DEFAULT), about=about)
    result.events = [Event(20.0, 23.0, "stop worker for 3 s")]
    result.server = [{"at": float(at), **parse(SCRAPED), "steps": at * 100.0, "stage commit": at * 0.2} for at in range(0, 60, 5)]
    return result


def test_the_verdict_comes_first_and_nothing_is_loaded_from_elsewhere(result: Result) -> None:
    text = page(result)
    assert text.index("✗ failed") < text.index("<h2>")
    assert not re.search(r"(src|href)=|url\(|@import|<script", text)
    for said in ("wrong digits", "errors hidden behind retries", "stop worker for 3 s", "p99.99", "Live sessions", "2e-05"):
        assert said in text, said
    assert "<b>1e-3</b>" not in text, "what a server says is escaped"
    assert text.count("<figure>") == 7
    assert "nan" not in text


def test_a_run_without_anything_has_a_report() -> None:
    empty = judged(measured(seconds=0), 1.0, [])
    assert "Nothing: no wrong answer" in page(empty)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_lays_it_out_without_an_error(result: Result, tmp_path: Path) -> None:
    write_report(result, tmp_path / "report.html", capacity="carries 21,000 sessions")
    image = tmp_path / "report.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=900,2000"]
    command = ["chromium", *options, f"--screenshot={image}", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert image.stat().st_size > 50_000, "an empty page is smaller"
    assert "CONSOLE" not in done.stderr


def test_metrics_are_summed_over_models_and_workers() -> None:
    assert parse(SCRAPED) == {"steps": 42.0, "stage commit": 1.5, "stage run": 0.25, "sessions": 7.0}
    samples = [{"at": 0.0, "stage run": 1.0}, {"at": 10.0, "stage run": 4.0, "stage commit": 6.0}]
    assert stages(samples) == {"commit": 0.6, "run": 0.3}
    assert stages(samples[:1]) == {}


def test_faults_are_read_in_the_order_of_their_time(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text('[[fault]]\nat = 9\ndo = "kill worker"\n[[fault]]\nat = 4\ndo = "stop worker"\nseconds = 3\n')
    assert faults.read(path) == [Fault(4, "stop worker", 3), Fault(9, "kill worker")]
    assert str(faults.read(path)[0]) == "stop worker for 3 s"


@pytest.mark.parametrize("fault", ['at = 1\ndo = "sing"', 'at = 1\ndo = "run"', 'at = 1\ndo = "deploy"', "when = 1"])
def test_what_is_no_fault_is_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(f"[[fault]]\n{fault}")
    with pytest.raises(ValueError, match=r"faults\.toml"):
        faults.read(path)


def test_a_server_started_elsewhere_is_only_harmed_by_commands() -> None:
    with pytest.raises(ValueError, match="only be harmed by `run`"):
        Faults([Fault(1, "kill worker")], None, "two")


def test_commands_are_run_at_their_time_and_a_failure_is_told(tmp_path: Path) -> None:
    harm = Faults([Fault(0, "run", command=f"touch {tmp_path / 'done'}"), Fault(0, "run", command="false")], None, "two")
    harm.start(started=0.0)
    assert harm._thread is not None
    harm._thread.join(30)
    assert (tmp_path / "done").exists()
    assert [event.what.partition(" (")[0] for event in harm.events] == [f"run: touch {tmp_path / 'done'}", "run: false: not done"]


def test_a_deployment_that_fails_is_told(two: Exported, tmp_path: Path) -> None:
    server = TorchServe(tmp_path / "run", two.built.archive.parent)
    harm = Faults([Fault(0, "deploy", archive="two:2.0")], server, "two")
    harm.start(started=0.0)
    assert harm._thread is not None
    harm._thread.join(30)
    [event] = harm.events
    assert event.what.startswith("deploy two:2.0: not done (")
