"""Triton's Python backend: windows, and steps of sequences whose states lie in its memory. Both as tensors `[1, T, F]`."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from benchmarks.peers.graph import Graph


class TritonPythonModel:
    """What Triton's backend calls."""

    def initialize(self, args):
        self.graph, self.states = Graph(), {}
        self.has_sequences = "sequence_batching" in json.loads(args["model_config"])

    def execute(self, requests):
        x = np.concatenate([pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests])
        y = self._step(x, requests) if self.has_sequences else self.graph.predict(x)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", y[i : i + 1])]) for i in range(len(requests))]

    def _step(self, x, requests):
        ids = [request.correlation_id() for request in requests]
        begins = [bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START) for request in requests]
        before = [self.graph.zeros(1) if begin else self.states[id] for id, begin in zip(ids, begins, strict=True)]
        y, after = self.graph.step(x, [np.concatenate(tensors, axis=1) for tensors in zip(*before, strict=True)])
        for i, id in enumerate(ids):
            self.states[id] = [np.ascontiguousarray(tensor[:, i : i + 1]) for tensor in after]
        return y
