"""TorchServe's gRPC ports, which cannot be switched off and would ask for no key: they answer nobody."""

import socket
import ssl

import grpc
import pytest

from host.torchserve.launcher import TorchServe

pytestmark = pytest.mark.e2e
METHODS = (
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
    "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels",
    "/org.pytorch.serve.grpc.management.ManagementAPIsService/ScaleWorker",
)


def channels(port: int) -> list[grpc.Channel]:
    """A channel without TLS, and one that asks for it."""
    address = f"127.0.0.1:{port}"
    return [grpc.insecure_channel(address), grpc.secure_channel(address, grpc.ssl_channel_credentials())]


def test_no_method_can_be_called(served: TorchServe) -> None:
    for port in served.ports.grpc:
        for channel in channels(port):
            with channel:
                for method in METHODS:
                    with pytest.raises(grpc.RpcError) as failed:
                        channel.unary_unary(method)(b"", timeout=10)
                    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert served.describe("one")["minWorkers"] == 1


def unverified(*versions: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that believes every certificate and takes every cipher."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = versions
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_handshake_succeeds_even_for_a_client_that_verifies_nothing(served: TorchServe, version: ssl.TLSVersion) -> None:
    for port in served.ports.grpc:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            unverified(version, version).wrap_socket(plain).do_handshake()
