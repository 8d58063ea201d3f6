"""What cannot be tested ends with a sentence and exit code 2; two results are compared."""

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.load import objectives
from loadtests.load.command import main
from loadtests.load.result import judged
from tests.conftest import Exported
from tests.unit.test_load_judgement import measured

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "none"], "no archive of 'none' in the store; it has two"),
        (["--scenarios", "speed"], "scenarios: no 'speed'"),
        (["--rate", "sine:1"], "rate: expected"),
        (["--objectives", "missing.toml"], "missing.toml"),
        (["--faults", "missing.toml"], "missing.toml"),
        (["capacity", "--slo", "fast"], "slo: expected"),
        (["compare", "missing.json", "missing.json"], "missing.json"),
    ],
)
def test_what_cannot_begin_says_why(
    two: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    more = (
        []
        if arguments[0] == "compare"
        else ["--store", str(two.built.archive.parent), "--report", str(tmp_path), "--url", "x", "--token", "x"]
    )
    assert main([*arguments, *more]) == 2
    assert said in capsys.readouterr().err


def test_a_url_needs_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--url", "http://localhost"])
    assert "--url needs --token" in capsys.readouterr().err


def test_a_server_that_is_not_there_ends_it(two: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The pre-flight runs in Locust's process."""
    store = str(two.built.archive.parent)
    options = ["--store", store, "--report", str(tmp_path), "--url", "http://127.0.0.1:9", "--token", "x", "--seconds", "60"]
    assert main(["--users", "1", *options]) == 2
    said = capfd.readouterr().err
    assert "is the server up" in said
    assert "the load could not begin" in said


def test_plain_locust_without_an_archive_ends_with_a_sentence(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("locust")), "-f", "loadtests/locustfile.py", "--headless", "--store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "holds no .mar archive" in done.stderr


def test_two_results_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, latency in (("before", 0.010), ("after", 0.013)):
        (tmp_path / name).mkdir()
        judged(measured(lambda at, latency=latency: latency), 60.0, objectives.read(objectives.DEFAULT)).write(tmp_path / name)  # type: ignore[misc]
    assert main(["compare", str(tmp_path / "before" / "result.json"), str(tmp_path / "after" / "result.json")]) == 0
    printed = capsys.readouterr().out
    assert "p50 of a second, ms" in printed
    assert "changed" in printed
    assert "noise" in printed
