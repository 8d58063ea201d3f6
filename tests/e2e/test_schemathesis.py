"""schemathesis sends what docs/openapi.yaml allows and what it forbids: every answer conforms, none is a 5xx.

This is the short form. docs/api.md has the command for thousands of requests.
"""

import os
import subprocess
from pathlib import Path

import pytest

from host.torchserve.launcher import TorchServe

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".clients" / "bin" / "schemathesis"
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not PROGRAM.exists(), reason="no .clients: `make test` makes it")]


def test_every_answer_is_one_that_the_description_promises(served: TorchServe) -> None:
    before = served.worker_pids("one")
    options = ["--url", served.url, "-H", f"Authorization: Bearer {served.first_key.read_text().strip()}", "--no-color"]
    bounds = ["--max-examples", "50", "--phases", "examples,fuzzing,stateful"]
    done = subprocess.run(
        [
            str(PROGRAM),
            "--config-file",
            str(ROOT / "tests" / "schemathesis.toml"),
            "run",
            str(ROOT / "docs" / "openapi.yaml"),
            *options,
            *bounds,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MODEL": "one"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert served.worker_pids("one") == before
