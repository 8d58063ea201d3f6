"""Clients that others wrote, unmodified, against a real TorchServe: the numbers are those of the native protocol, to the digit."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.build import build
from host.torchserve.launcher import TorchServe, serving
from tests.support.http_client import Connect
from tests.support.sequence_model import sequence_model
from tests.support.served_models import Model, assert_close, write_checkpoint

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".clients" / "bin" / "python"
EXAMPLE = ROOT / ".clients" / "simple_http_sequence_sync_infer_client.py"
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


def test_a_version_of_the_model_through_triton_s_client(served: TorchServe, connect: Connect, inputs: np.ndarray, tmp_path: Path) -> None:
    """TorchServe has no route for a version in the protocol's path, and says 404; the URL of a version is the client's way to it."""
    found = run("triton", served, f"127.0.0.1:{served.ports.inference}", inputs, tmp_path)["versions"]
    expected = native(connect, served, inputs)
    assert [found["server"][version][1] for version in ("1.0", "2.0")] == ["404", "404"]
    for answer in (found["server"][""], found["version"][""], found["version"]["1.0"]):
        assert equal(answer[0], expected)
    [nothing, status, message] = found["version"]["2.0"]
    assert (nothing, status) == (None, "422")
    assert message.startswith("invalid_input: model_version: '2.0' is asked for, but this request reached two-1.0")


@pytest.mark.skipif(not EXAMPLE.exists(), reason=f"no {EXAMPLE.name}: `make test` fetches it where GitHub is reached")
def test_triton_s_own_sequence_example(tmp_path: Path) -> None:
    """Its two sequences with integer ids and one with a text, against the model that it expects, whose clients send no key."""
    model = sequence_model()
    build(write_checkpoint(model, tmp_path / "simple_sequence"), tmp_path / "store")
    with serving(tmp_path / "server", tmp_path / "store", authenticate=False) as server:
        done = subprocess.run(
            [str(PYTHON), str(EXAMPLE), "-u", f"127.0.0.1:{server.ports.inference}"], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: Sequence" in done.stdout


def test_kserve_s_client(served: TorchServe, connect: Connect, inputs: np.ndarray, tmp_path: Path) -> None:
    found, expected = run("kserve_sdk", served, served.url, inputs, tmp_path), native(connect, served, inputs)
    for name in ("v1", "json", "binary", "version"):
        assert equal(found[name], expected), name
    assert found["error"].startswith("invalid_input: x: expected FP32 [N, T, 3], got the shape [2, 6, 1]")
