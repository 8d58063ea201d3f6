"""BentoML: `bentoml serve benchmarks.peers.bentoml_app:Windows --port PORT`. It forms batches of up to 64 by itself."""

import bentoml
import numpy as np

from benchmarks.peers.graph import Graph


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Windows:
    """One window a request, as a batch of one."""

    def __init__(self) -> None:
        self.graph = Graph()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1_000, route="/predict")
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return self.graph.predict(inputs)
