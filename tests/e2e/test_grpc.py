"""TorchServe's gRPC interface, which cannot be switched off: on loopback, with the token, and no way to end a worker."""

import json
from collections.abc import Iterator

import grpc
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Client
from tests.support.served_models import Model, assert_close

pytestmark = pytest.mark.e2e
SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protocol buffer shorter than 16 KB."""
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 0x7F | 0x80, len(value) >> 7])
    return bytes([number << 3 | 2]) + length + value


def prediction_request(model: str, body: bytes) -> bytes:
    """`PredictionsRequest`: model_name = 1, input = 3, a map of string to bytes."""
    return field(1, model.encode()) + field(3, field(1, b"data") + field(2, body))


def body_of(response: bytes) -> bytes:
    """`PredictionResponse`: prediction = 1."""
    assert response[0] == 1 << 3 | 2
    return response[2:] if response[1] < 128 else response[3:]


@pytest.fixture
def channel(served: TorchServe) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served.ports.grpc[0]}") as opened:
        yield opened


def metadata(server: TorchServe) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {server.token()}")]


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
def test_a_prediction_by_grpc_is_answered_once_and_its_worker_lives(
    served: TorchServe, zoo: dict[str, Model], channel: grpc.Channel, method: str
) -> None:
    inputs, workers = zoo["one"].inputs(3, seed=5), served.worker_pids("one")
    request = prediction_request("one", json.dumps({"inputs": inputs}).encode())
    for _ in range(3):
        replies = list(channel.unary_stream(f"{SERVICE}/{method}")(request, metadata=metadata(served), timeout=30))
        assert len(replies) == 1
        assert_close(json.loads(body_of(replies[0]))["prediction"], zoo["one"].whole(inputs), "prediction")
    assert served.worker_pids("one") == workers


def test_without_the_token_nothing_is_answered(served: TorchServe, channel: grpc.Channel) -> None:
    for method in ("Predictions", "StreamPredictions"):
        with pytest.raises(grpc.RpcError):
            list(channel.unary_stream(f"{SERVICE}/{method}")(prediction_request("one", b"{}"), timeout=30))


def test_by_http_no_reply_speaks_of_streams(served: TorchServe) -> None:
    with Client(served, "one") as client:
        assert "ts_stream_next" not in client.send(inputs=[[0.0] * 3]).headers
