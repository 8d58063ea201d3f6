"""Clients that others wrote, unmodified, against a real TorchServe: the numbers are those of the native protocol, to the digit."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Connect
from tests.support.served_models import Model, assert_close

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".clients" / "bin" / "python"
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not PYTHON.exists(), reason="no .clients: `make test` makes it")]


@pytest.fixture
def inputs(zoo: dict[str, Model]) -> np.ndarray:
    """`[2, 6, F]`: two streams."""
    return np.array([zoo["two"].inputs(6, seed=seed) for seed in (1, 2)])


def run(program: str, server: TorchServe, address: str, inputs: np.ndarray, folder: Path) -> dict[str, Any]:
    """Run a program of tests/support/stock in the other environment."""
    (folder / "inputs.json").write_text(json.dumps(inputs.tolist()))
    key = server.first_key.read_text().strip()
    command = [str(PYTHON), "-m", f"tests.support.stock.{program}", address, key, "two", str(folder / "inputs.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def native(connect: Connect, server: TorchServe, inputs: np.ndarray) -> np.ndarray:
    """`[2, O]` float32: the native protocol's predictions."""
    client = connect(server, "two")
    return np.array([client.ask(inputs=rows.tolist())["prediction"] for rows in inputs], np.float32)


def equal(found: Any, expected: np.ndarray) -> bool:
    return bool((np.array(found, np.float32) == expected).all())


def test_triton_s_client(served: TorchServe, zoo: dict[str, Model], connect: Connect, inputs: np.ndarray, tmp_path: Path) -> None:
    found, expected = run("triton", served, f"127.0.0.1:{served.ports.inference}", inputs, tmp_path), native(connect, served, inputs)
    assert found["id"] == "7"
    for name in ("binary", "json", "async", "aio", "many"):
        assert equal(found[name], expected), name
    state = np.stack([zoo["two"].run(rows.tolist()).h_n for rows in inputs], axis=1)
    assert_close(found["h_n"], state, "h_n")
    for ids in (("1007", "1008"), ("seven", "eight")):
        assert_close([found["sequences"][id] for id in ids], expected, f"sequences {ids}")
    assert (found["status"], found["step"], found["refused"]) == ([200, 409], [12, 6], True)
    status, message = found["error"]
    assert (status, message[:43]) == ("422", "invalid_input: x: expected FP32 [N, T, 3], ")


def test_kserve_s_client(served: TorchServe, connect: Connect, inputs: np.ndarray, tmp_path: Path) -> None:
    found, expected = run("kserve_sdk", served, served.url, inputs, tmp_path), native(connect, served, inputs)
    for name in ("v1", "json", "binary"):
        assert equal(found[name], expected), name
    assert found["error"].startswith("invalid_input: x: expected FP32 [N, T, 3], got the shape [2, 6, 1]")
