"""MLServer: `mlserver start FOLDER`, with settings that `servers` writes. Requests that arrive within a millisecond are a batch."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.graph import Graph


class Windows(MLModel):
    """One window a request, as a tensor `[1, T, F]`."""

    async def load(self) -> bool:
        self.graph = Graph()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        y = self.graph.predict(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
