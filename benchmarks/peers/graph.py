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

    def predict(self, windows: Any) -> Any:
        """Return the predictions `[B, O]` of windows `[B, T, F]`."""
        x = np.asarray(windows, np.float32)
        states = {name: np.zeros((rows, len(x), size), np.float32) for name, (rows, size) in self._states.items()}
        (y,) = self._session.run(["y"], {"x": x, **states})
        return y
