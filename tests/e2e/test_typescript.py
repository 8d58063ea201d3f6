"""The TypeScript client that is generated from docs/openapi.yaml: it compiles, and streams a session of a real TorchServe."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.served_models import Model, assert_close

FOLDER = Path(__file__).parents[2] / "examples" / "typescript"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("node") is None, reason="no node"),
    pytest.mark.skipif(not (FOLDER / "node_modules").exists(), reason="no node_modules: `make test` makes it where npm is"),
]


def test_it_compiles_and_streams_a_session(served: TorchServe, zoo: dict[str, Model], session: str, tmp_path: Path) -> None:
    model, inputs = zoo["two"], zoo["two"].inputs(8, seed=9)
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    subprocess.run(["npm", "run", "build"], cwd=FOLDER, check=True, capture_output=True, timeout=120)
    key = served.first_key.read_text().strip()
    command = ["node", "dist/stream.js", served.url, key, "two", session, str(tmp_path / "inputs.json")]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert_close(found["predictions"], model.run(inputs).y, "the predictions of each step")
    assert (np.float32(found["repeated"]) == np.float32(found["predictions"][-1])).all()
    assert found["replayed"] is True
    assert (found["error"]["code"], found["error"]["details"]["expected"]) == ("step_conflict", len(inputs))
