"""The other protocols through a real TorchServe: their routes, headers and statuses, and bodies that lie."""

import gzip
import json

import httpx
import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Connect
from tests.support.open_inference_client import Answer, read, request
from tests.support.served_models import Model

pytestmark = pytest.mark.e2e
V2, NATIVE = "/v2/models/two/infer", "/predictions/two/1.0"


@pytest.fixture
def x(zoo: dict[str, Model]) -> np.ndarray:
    return np.array([zoo["two"].inputs(5, seed=seed) for seed in (1, 2)], np.float32)


def post(server: TorchServe, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", content=body, headers=server.headers() | headers, timeout=30)


def infer(server: TorchServe, path: str, binary: bool, **more: object) -> Answer:
    sent = request(binary, **more)  # type: ignore[arg-type]
    response = post(server, path, sent.body, dict(sent.headers))
    expected = "application/octet-stream" if binary and response.status_code == 200 else "application/json"
    assert response.headers["content-type"] == expected
    return read(response.status_code, response.content, response.headers.get("Inference-Header-Content-Length"))


@pytest.mark.parametrize("path", [V2, NATIVE])
@pytest.mark.parametrize("binary", [False, True])
def test_a_body_is_known_by_itself_on_any_route(served: TorchServe, x: np.ndarray, connect: Connect, path: str, binary: bool) -> None:
    found = infer(served, path, binary, inputs={"x": x}, outputs=["y", "h_n"])
    for i, rows in enumerate(x):
        native = connect(served, "two").ask(inputs=rows.tolist(), **{"return": ["prediction", "h_n"]})
        assert (found.outputs["y"][i] == np.array(native["prediction"], np.float32)).all()
        assert (found.outputs["h_n"][:, i] == np.array(native["h_n"], np.float32)).all()


def test_an_error_has_its_status_and_the_protocol_s_form(served: TorchServe, x: np.ndarray, session: str) -> None:
    found = infer(served, V2, True, inputs={"x": x[:1]}, sequence_id=session, step=4)
    assert (found.status, found.error[:18]) == (404, "session_not_found:")


def test_kserve_v1_is_served(served: TorchServe, x: np.ndarray, connect: Connect) -> None:
    response = httpx.post(f"{served.url}/v1/models/two:predict", json={"instances": x.tolist()}, headers=served.headers())
    assert response.json() == {"predictions": [connect(served, "two").ask(inputs=rows.tolist())["prediction"] for rows in x]}


@pytest.mark.parametrize("path", [V2, "/v1/models/two:predict", NATIVE])
def test_a_compressed_body_is_known_by_what_it_holds(served: TorchServe, x: np.ndarray, path: str) -> None:
    windows = json.dumps({"instances": x.tolist()}).encode()
    for body, field in ((windows, "predictions"), (request(inputs={"x": x}).body, "outputs")):
        plain = post(served, path, body, {})
        assert (plain.status_code, field in plain.json()) == (200, True)
        assert post(served, path, gzip.compress(body), {"Content-Encoding": "gzip"}).json() == plain.json()


def test_values_nested_beyond_python_s_stack_are_refused(served: TorchServe) -> None:
    before = served.worker_pids("two")
    for depth in range(800, 1_030, 10):
        body = b'{"inputs": %b1%b, "session": "a:b"}' % (b"[" * depth, b"]" * depth)
        assert post(served, NATIVE, body, {}).status_code in (400, 422), depth
    assert served.worker_pids("two") == before


def test_a_version_in_the_path_is_not_a_route_of_torchserve(served: TorchServe, x: np.ndarray) -> None:
    sent = request(inputs={"x": x})
    assert post(served, "/v2/models/two/versions/1.0/infer", sent.body, {}).status_code == 404


def test_lengths_that_lie_are_refused_and_the_worker_lives(served: TorchServe, x: np.ndarray) -> None:
    before, sent = served.worker_pids("two"), request(True, inputs={"x": x})
    for length in ("0", "1", "99999999", "-1", "abc", str(len(sent.body))):
        assert post(served, V2, sent.body, {"Inference-Header-Content-Length": length}).status_code == 400, length
    claim = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2147483647,1,3],"parameters":{"binary_data_size":2147483647}}]}'
    assert post(served, V2, claim, {"Inference-Header-Content-Length": str(len(claim))}).status_code == 422
    assert post(served, V2, sent.body[:-1], dict(sent.headers)).status_code == 422
    assert served.worker_pids("two") == before
