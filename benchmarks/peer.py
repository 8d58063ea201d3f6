"""The peer: a hand-written ASGI app over ONNX Runtime, one request a run, nothing but what a window needs. No sessions."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from benchmarks.asgi import read_body


def application() -> Any:
    """For `uvicorn --factory`; `MODEL_ONNX` names the graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(Path(os.environ["MODEL_ONNX"])), options, providers=["CPUExecutionProvider"])
    states = {i.name: np.zeros((i.shape[0], 1, i.shape[2]), np.float32) for i in session.get_inputs()[1:]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        x = np.array([orjson.loads(await read_body(receive))["inputs"]], np.float32)
        (y,) = session.run(["y"], {"x": x, **states})
        reply = orjson.dumps({"prediction": y[0].tolist()})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": reply})

    return app
