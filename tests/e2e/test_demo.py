"""The README's first command, `make demo`, ends well: real data, workers killed half way, every step applied once."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
def test_the_demo_ends_with_ok_and_a_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.demo", "--out", str(tmp_path / "demo")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "ended with SIGKILL" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "ok: every step applied exactly once, and the stream equals the offline run"
    assert (tmp_path / "demo" / "traffic.png").stat().st_size > 10_000
