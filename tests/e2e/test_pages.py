"""The sessions by curl and by stock clients on the protocols' pages: each is run against a real TorchServe, with the page's answers."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.build import build
from host.torchserve.launcher import TorchServe, serving
from tests.contract.test_sessions_page import LEFT_OUT, told
from tests.unit.test_client_page import assert_same_line

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".clients" / "bin" / "python"
ADDRESS = "localhost:8080"  # on the pages
NAMES = {"model_name", "model_version"}
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(exported: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """The pages' model `meter`: that of the examples that are run without a server, under another name."""
    folder = tmp_path_factory.mktemp("pages")
    checkpoint = shutil.copytree(exported("one").checkpoint, folder / "meter")
    card = json.loads((checkpoint / "model.json").read_text())
    (checkpoint / "model.json").write_text(json.dumps(card | {"name": "meter"}))
    (folder / "store").mkdir()
    build(checkpoint, folder / "store")
    with serving(folder / "run", folder / "store") as server:
        yield server


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


def run(server: TorchServe, *command: str, program: str) -> str:
    """Run a program in the folder in which the page's `run/key` is the key; its output."""
    here = program.replace(ADDRESS, server.url.removeprefix("http://"))
    done = subprocess.run([*command, here], capture_output=True, text=True, cwd=server.folder.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("page", ["api.md", "open-inference.md", "kserve-v1.md"])
def test_a_session_by_curl(server: TorchServe, page: str) -> None:
    [block] = blocks(page, "console")
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    expected = [json.loads(line) for line in block.splitlines() if not line.startswith("$ ")]
    found = [json.loads(line) for line in run(server, "bash", "-ec", program="\n".join(commands)).splitlines()]
    assert len(found) == len(expected) == len(commands) - 1 >= 3
    for reply, shown in zip(found, expected, strict=True):
        assert told(reply, shown, LEFT_OUT | NAMES) == shown


@pytest.mark.skipif(not PYTHON.exists(), reason="no .clients: `make test` makes it")
@pytest.mark.parametrize("page", ["open-inference.md", "kserve-v1.md"])
def test_a_session_by_its_stock_client(server: TorchServe, page: str) -> None:
    [block] = blocks(page, "python")
    expected = [line for comment in re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE) for line in comment.split("; ")]
    found = run(server, str(PYTHON), "-c", program=block).splitlines()
    assert len(found) == len(expected)
    for line, shown in zip(found, expected, strict=True):
        assert_same_line(line, shown)
