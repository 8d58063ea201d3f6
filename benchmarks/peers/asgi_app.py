"""A hand-written ASGI app over ONNX Runtime: one request a run, nothing but what a window needs."""

from typing import Any

import orjson

from benchmarks.asgi import read_body
from benchmarks.peers.graph import Graph


def application() -> Any:
    """For `uvicorn --factory`; `MODEL_ONNX` names the graph."""
    graph = Graph()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        (y,) = graph.predict([orjson.loads(await read_body(receive))["inputs"]])
        reply = orjson.dumps({"prediction": y.tolist()})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": reply})

    return app
