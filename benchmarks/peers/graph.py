"""The exported graph, as somebody would use it who has nothing else: a batch of windows in, their predictions out."""

import os
from typing import Any

import numpy as np
import onnxruntime as ort


class Graph:
    """The graph that the environment's `MODEL_ONNX` names, on one thread."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["MODEL_ONNX"], options, providers=["CPUExecutionProvider"])
        self._states = {i.name: (i.shape[0], i.shape[2]) for i in self._session.get_inputs()[1:]}
        self._results = ["y", *[o.name for o in self._session.get_outputs() if o.name not in ("y", "output")]]

    def predict(self, windows: Any) -> Any:
        """Return the predictions `[B, O]` of windows `[B, T, F]`."""
        x = np.asarray(windows, np.float32)
        (y,) = self._session.run(["y"], {"x": x, **dict(zip(self._states, self.zeros(len(x)), strict=True))})
        return y

    def zeros(self, count: int) -> list[Any]:
        """Return the state tensors of so many rows before their first step."""
        return [np.zeros((rows, count, size), np.float32) for rows, size in self._states.values()]

    def step(self, x: Any, states: list[Any]) -> Any:
        """Return the predictions `[B, O]` of `x`, `[B, T, F]`, and the state tensors after it."""
        y, *after = self._session.run(self._results, {"x": x, **dict(zip(self._states, states, strict=True))})
        return y, after
