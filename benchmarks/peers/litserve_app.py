"""LitServe: `python -m benchmarks.peers.litserve_app PORT`. Requests that arrive within a millisecond are a batch of up to 64."""

import sys

import litserve
import numpy as np

from benchmarks.peers.graph import Graph


class Windows(litserve.LitAPI):
    """One window a request."""

    def setup(self, device):
        self.graph = Graph()

    def decode_request(self, request):
        return request["inputs"]

    def batch(self, inputs):
        return np.array(inputs, np.float32)

    def predict(self, x):
        return self.graph.predict(x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"prediction": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Windows(max_batch_size=64, batch_timeout=0.001), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
