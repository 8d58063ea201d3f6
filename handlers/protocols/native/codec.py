"""The native protocol as a codec: one request object a body, or many as `instances`."""

from collections.abc import Sequence

from msgspec import Struct

from handlers.engine.request import Request, Result, StepResults
from handlers.errors import CellstateError, TooLarge
from handlers.protocols.base import HttpRequest, HttpResponse
from handlers.protocols.native.decode import Parser
from handlers.protocols.native.encode import Encoder
from handlers.settings import Settings
from handlers.signature import Signature


class NativeCall(Struct):
    """One body of the native protocol."""

    requests: Sequence[Request | CellstateError]
    is_batch: bool  # whether the requests came as `instances`
    encoder: Encoder
    max_reply_bytes: int  # for the arrays and the state of one reply

    def encode(self, result: Result) -> bytes:
        """Encode one response object."""
        fields = self.encoder.fields(result)
        if len(fields) > self.max_reply_bytes:
            raise TooLarge(
                f"reply: {len(fields)} bytes, at most {self.max_reply_bytes} here: send fewer steps or instances, or ask for less in return"
            )
        return self.encoder.response(fields, result)

    @staticmethod
    def encode_steps(calls: Sequence["NativeCall"], results: StepResults) -> list[bytes]:
        """Encode one response object for each call."""
        return calls[0].encoder.steps(results, min({call.max_reply_bytes for call in calls}))

    def respond(self, replies: Sequence[bytes | CellstateError]) -> HttpResponse:
        """Answer with the one response object, or with `{"predictions": [...]}`."""
        if self.is_batch:
            bodies = [self.encoder.error(reply) if isinstance(reply, CellstateError) else reply for reply in replies]
            return HttpResponse(200, b'{"predictions":[' + b",".join(bodies) + b"]}")
        [reply] = replies
        if isinstance(reply, CellstateError):
            return HttpResponse(reply.status, self.encoder.error(reply), headers=reply.headers)
        return HttpResponse(200, reply)


class NativeCodec:
    """Decodes and encodes for one model under one set of limits."""

    def __init__(self, signature: Signature, limits: Settings) -> None:
        self._parser, self._encoder, self._max_reply = (
            Parser(signature, limits),
            Encoder(signature, limits.state_key.encode()),
            limits.max_reply,
        )

    def decode(self, request: HttpRequest) -> NativeCall:
        """Decode one body."""
        return self.decode_batch([request])[0]

    def decode_batch(self, requests: Sequence[HttpRequest]) -> list[NativeCall]:
        """Decode the bodies of a batch together."""
        encoder, max_reply = self._encoder, self._max_reply
        decoded = self._parser.bodies([request.body for request in requests])
        return [NativeCall(items, is_batch, encoder, max_reply // len(items)) for items, is_batch in decoded]

    def failed(self, error: CellstateError) -> NativeCall:
        """Return the call of a body that is answered with `error`."""
        return NativeCall([error], False, self._encoder, self._max_reply)
