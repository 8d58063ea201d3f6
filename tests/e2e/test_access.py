"""Without a key nothing but liveness is answered, on every port; a key opens what its scopes say, and stops when it is revoked."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import psutil
import pytest

import host
from host.ports import HostError
from host.torchserve.launcher import TorchServe, serving
from tests.support.http_client import Connect, error_code
from tests.support.served_models import Model

pytestmark = pytest.mark.e2e
ROOT = Path(host.__file__).resolve().parent.parent
ROW = [[50.0, 0.0, 1.0]]
OPEN_INFERENCE = {"inputs": [{"name": "x", "shape": [1, 1, 3], "datatype": "FP32", "data": [50.0, 0.0, 1.0]}]}
PATHS = {  # every way of TorchServe to a handler
    "/predictions/one": {"inputs": ROW},
    "/predictions/one/1.0": {"inputs": ROW},
    "/predictions/one/1.0/more": {"inputs": ROW},
    "/explanations/one": {"inputs": ROW},
    "/models/one/invoke": {"inputs": ROW},
    "/invocations?model_name=one": {"inputs": ROW},
    "/one/predict": {"inputs": ROW},
    "/v1/models/one:predict": {"instances": [ROW]},
    "/v2/models/one/infer": OPEN_INFERENCE,
}


def keys(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "host", "keys", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done.stdout.strip() if code == 0 else done.stderr


@pytest.fixture(scope="module")
def guarded(lone_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    with serving(tmp_path_factory.mktemp("guarded"), lone_store) as server:
        yield server


@pytest.fixture(scope="module")
def user(guarded: TorchServe) -> str:
    return keys("add", "user", "--folder", guarded.folder)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.mark.parametrize("path", PATHS)
def test_every_way_to_a_model_needs_a_key(guarded: TorchServe, user: str, path: str) -> None:
    wrong = (
        {},
        bearer("wrong"),
        bearer(user[:-1]),
        {"X-API-Key": "wrong"},
        {"Authorization": f"Basic {user}"},
        {"describe": "True"},
    )
    with httpx.Client(timeout=30) as client:
        for headers, method in product(wrong, ("POST", "GET", "PUT", "DELETE")):
            response = client.request(method, guarded.url + path, json=PATHS[path], headers=headers)
            assert response.status_code == 401, (method, headers, response.text)
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert "error" in response.json()
        for headers in (bearer(user), {"X-API-Key": user}):
            response = client.post(guarded.url + path, json=PATHS[path], headers=headers)
            assert response.status_code == 200, response.text


def test_a_step_without_a_key_reaches_nothing(served: TorchServe, zoo: dict[str, Model], connect: Connect, session: str) -> None:
    client, row = connect(served, "two"), zoo["two"].inputs(1, seed=1)
    client.ask(inputs=row, session={"id": session, "step": 0})
    response = httpx.post(client.url, json={"inputs": row, "session": {"id": session, "step": 1}})
    assert (response.status_code, error_code(response)) == (401, "unauthenticated")
    assert client.position(session) == 1


def test_liveness_needs_no_key(guarded: TorchServe) -> None:
    assert httpx.get(f"{guarded.url}/ping").status_code == 200


def test_a_key_works_until_it_is_revoked_without_a_restart(guarded: TorchServe) -> None:
    text, url = keys("add", "passing", "--folder", guarded.folder), f"{guarded.url}/predictions/one"
    assert httpx.post(url, json={"inputs": ROW}, headers=bearer(text)).status_code == 200
    assert "has a key passing already" in keys("add", "passing", "--folder", guarded.folder, code=2)
    keys("revoke", "passing", "--folder", guarded.folder)
    assert httpx.post(url, json={"inputs": ROW}, headers=bearer(text)).status_code == 401
    assert "has no key passing" in keys("revoke", "passing", "--folder", guarded.folder, code=2)


def test_metrics_need_a_key_that_may_operate(guarded: TorchServe, user: str) -> None:
    operator = keys("add", "operator", "--scope", "operate", "--folder", guarded.folder)
    assert httpx.get(guarded.metrics_url).status_code == 401
    assert httpx.get(guarded.metrics_url, headers=bearer(user)).status_code == 403
    assert "ts_inference_requests_total" in httpx.get(guarded.metrics_url, headers=bearer(operator)).text
    refused = httpx.post(f"{guarded.url}/predictions/one", json={"inputs": ROW}, headers=bearer(operator))
    assert (refused.status_code, error_code(refused)) == (403, "forbidden")


def test_no_port_but_inference_and_metrics_answers(guarded: TorchServe) -> None:
    """Whatever the server's processes listen on: the two ports for clients, the two of gRPC (test_grpc.py), and sockets in its folder."""
    assert guarded.process is not None
    java = psutil.Process(guarded.process.pid)
    listening = [c for process in (java, *java.children(recursive=True)) for c in process.net_connections("inet") if c.status == "LISTEN"]
    assert {c.laddr.port for c in listening} == {guarded.ports.inference, *guarded.ports.grpc}
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}
    for path in ("management.sock", "metrics.sock"):
        assert stat.S_ISSOCK((guarded.folder / path).stat().st_mode)
    assert guarded.folder.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_of_the_machine_reaches_no_socket_and_reads_no_key(guarded: TorchServe) -> None:
    files = [guarded.folder / name for name in ("management.sock", "metrics.sock", "key", "keys.json", "server.json")]
    program = """
import os, socket, sys
os.setuid(65534)
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path) if path.endswith(".sock") else open(path)
        print("reached", path)
    except PermissionError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", program, *map(str, files)], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == ""


def test_the_key_is_in_no_log_and_no_file_but_its_own(guarded: TorchServe) -> None:
    text = (guarded.folder / "key").read_text().strip()
    httpx.post(f"{guarded.url}/predictions/one", json={"inputs": ROW}, headers=bearer(text))
    for path in guarded.folder.rglob("*"):
        if path.is_file() and path.name != "key":
            assert text.encode() not in path.read_bytes(), path


def test_the_first_key_is_kept_over_a_restart_and_servers_may_share_a_file(lone_store: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "first", lone_store) as server:
        text, shared = (tmp_path / "first" / "key").read_text().strip(), server.key_file
        assert json.loads(shared.read_text())["keys"][0]["name"] == "first"
    with serving(tmp_path / "second", lone_store, keys=shared) as server:
        assert httpx.post(f"{server.url}/predictions/one", json={"inputs": ROW}, headers=bearer(text)).status_code == 200
        assert not server.first_key.exists()


def test_no_auth_serves_everybody_loudly_and_on_loopback_alone(lone_store: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "open", lone_store, authenticate=False) as server:
        assert httpx.post(f"{server.url}/predictions/one", json={"inputs": ROW}).status_code == 200
        assert httpx.get(server.metrics_url).status_code == 200
    for option in ("--address", "--metrics-address"):
        command = [
            sys.executable,
            "-m",
            "host",
            "serve",
            "--no-auth",
            option,
            "0.0.0.0",
            "--folder",
            tmp_path / "run",
            "--store",
            lone_store,
        ]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "--allow-anyone" in done.stderr


def test_a_folder_whose_path_is_too_long_for_sockets_is_refused(lone_store: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="choose a shorter --folder"):
        TorchServe(tmp_path / ("x" * 120), lone_store).launch()
