"""End each stream of TorchServe's gRPC method StreamPredictions with its first reply."""

from typing import Any


def end(context: Any, i: int) -> None:
    """Mark the reply to request `i` as the last of its stream, when the request came by gRPC.

    TorchServe 0.12.0 reads this header of every reply to StreamPredictions; without it, it ends the worker with a NullPointerException. A
    request by HTTP has a Host header; one by gRPC has none.
    """
    headers = context.get_all_request_header(i)
    if not any(name.lower() == "host" for name in headers):
        context.set_response_header(i, "ts_stream_next", "false")
