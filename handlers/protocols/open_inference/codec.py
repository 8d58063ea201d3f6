"""The Open Inference Protocol as a codec: one inference request a body, of one or many rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from handlers.engine.request import Request, Result
from handlers.errors import CellstateError, TooLarge
from handlers.protocols.base import HttpRequest, HttpResponse, error_text
from handlers.protocols.open_inference.binary import HEADER_LENGTH
from handlers.protocols.open_inference.decode import FORECAST, SESSION, Decoder, Y
from handlers.protocols.open_inference.encode import (
    Row,
    Wanted,
    encode_response,
    encode_row,
    imputed_output,
    session_outputs,
    session_parameters,
    stack,
)
from handlers.protocols.open_inference.tensors import InferRequest, read_request
from handlers.settings import Settings
from handlers.signature import Signature

BINARY = "application/octet-stream"


@dataclass(slots=True)
class OpenInferenceCall:
    """One body. `rows_fail_alone` where each row has a session of its own; otherwise the first error is the whole answer."""

    requests: Sequence[Request | CellstateError]
    infer: InferRequest
    wanted: Sequence[Wanted]
    signature: Signature
    key: bytes
    max_row_bytes: int
    rows_fail_alone: bool = False

    def encode(self, result: Result) -> Row:
        """Encode the elements of one row."""
        row = encode_row(result, self.wanted, self.key)
        if row.size > self.max_row_bytes:
            raise TooLarge(
                f"reply: {row.size} bytes, at most {self.max_row_bytes} here: send fewer steps or rows, or ask for fewer outputs"
            )
        return row

    def respond(self, replies: Sequence[Row | CellstateError]) -> HttpResponse:
        """Put the rows together."""
        if not self.rows_fail_alone and (failed := next((e for e in replies if isinstance(e, CellstateError)), None)):
            return HttpResponse(failed.status, orjson.dumps({"error": error_text(failed)}), headers=failed.headers)
        outputs = [output for wanted in self.wanted if (output := stack(wanted, replies)) is not None]
        outputs += imputed_output(replies, self.infer.binary_outputs)
        parameters = {}
        if self.rows_fail_alone:
            outputs += session_outputs(replies, self.infer.binary_outputs)
        elif isinstance(replies[0], Row):
            parameters = session_parameters(replies[0].result)
        body, header_length = encode_response(self.signature, self.infer.id, parameters, outputs)
        if header_length is None:
            return HttpResponse(200, body)
        return HttpResponse(200, body, BINARY, {"Inference-Header-Content-Length": str(header_length)})


class OpenInferenceCodec:
    """Decodes and encodes for one model under one set of limits."""

    def __init__(self, signature: Signature, limits: Settings) -> None:
        self._decoder, self._signature, self._limits = Decoder(signature, limits), signature, limits

    @staticmethod
    def recognises(request: HttpRequest) -> bool:
        """Whether a request is in this protocol. Every tensor has a datatype, and no field of another protocol is called so."""
        return HEADER_LENGTH in request.headers or request.path.startswith("/v2/") or b'"datatype"' in request.body

    def decode(self, request: HttpRequest) -> OpenInferenceCall:
        """Decode one body."""
        try:
            self._decoder.rules.check_body(len(request.body))
            infer = read_request(request.body, request.headers)
            return self._call(self._decoder.requests(infer), infer)
        except CellstateError as e:
            return self.failed(e)

    def failed(self, error: CellstateError) -> OpenInferenceCall:
        """Return the call of a body that is answered with `error`."""
        return self._call([error], InferRequest({}))

    def _call(self, requests: Sequence[Request | CellstateError], infer: InferRequest) -> OpenInferenceCall:
        key, max_row_bytes = self._limits.state_key.encode(), self._limits.max_reply // len(requests)
        return OpenInferenceCall(requests, infer, self._wanted(infer), self._signature, key, max_row_bytes, SESSION in infer.inputs)

    def _wanted(self, infer: InferRequest) -> list[Wanted]:
        """The client's choice; without one the prediction, and the forecast where there is one."""
        if not infer.outputs:
            return [Wanted(name, infer.binary_outputs) for name in (Y, FORECAST)]
        states = {entry.output for entry in self._signature.state}
        return [Wanted(output.name, output.binary, output.name in states) for output in infer.outputs]
