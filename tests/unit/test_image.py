"""The image holds what its commands need, and its build is given what the Dockerfile copies."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]


def copied(stage: str) -> list[str]:
    """What a stage copies out of the repository."""
    lines: list[str] = re.findall(r"^COPY (?!--from)(.+) \S+$", stage, re.MULTILINE)
    return [source for line in lines for source in line.split()]


def test_nothing_that_is_copied_is_kept_from_the_build() -> None:
    given = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for stage in STAGES for source in copied(stage)]
    assert len(sources) > 5
    for source in sources:
        assert (ROOT / source).exists()
        assert source.split("/")[0] in given


@pytest.mark.parametrize("command", ["host", "host.sessions"])
def test_the_commands_of_the_image_import_nothing_that_it_does_not_hold(command: str) -> None:
    """The tests' environment finds all of the repository, so what is imported is told by its name."""
    held = {source.removesuffix(".py") for source in copied(STAGES[-1])}
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in found.stderr.splitlines()}
    own = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert imported & own <= held
