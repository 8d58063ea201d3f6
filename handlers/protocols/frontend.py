"""The HTTP face of the service, without a server: HTTP requests of one batch in, HTTP responses out."""

import logging
import time
from collections.abc import Sequence

from handlers.engine.context import ServiceContext
from handlers.engine.service import Service
from handlers.engine.task import Task
from handlers.errors import AccessError, CellstateError, InternalError
from handlers.keys import ANYONE, PREDICT, Caller, KeyRing
from handlers.protocols.access_log import AccessLog
from handlers.protocols.base import INSTANCES, Call, HttpRequest, HttpResponse
from handlers.protocols.compression import HEADER, decompressed
from handlers.protocols.kserve_v1 import KServeV1Codec
from handlers.protocols.native.codec import NativeCodec
from handlers.protocols.open_inference.binary import HEADER_LENGTH
from handlers.protocols.open_inference.codec import DATATYPE, OpenInferenceCodec

NOT_DECODED = "the service failed to decode this request; nothing was applied"
AnyCodec = NativeCodec | OpenInferenceCodec | KServeV1Codec
log = logging.getLogger("cellstate")


class Frontend:
    """Authenticates, decodes, serves and encodes for one model. Without `keys` everybody may do everything."""

    def __init__(self, service: Service, keys: KeyRing | None = None) -> None:
        self.service, self._telemetry, self._keys = service, service.context.telemetry, keys
        signature, settings = service.context.signature, service.context.settings
        self._max_body = settings.max_body
        self._access_log = AccessLog(settings.log_requests, signature.label)
        self._native = NativeCodec(signature, settings)
        self._recognised = (OpenInferenceCodec(signature, settings), KServeV1Codec(signature, settings))

    @classmethod
    def over(cls, context: ServiceContext) -> "Frontend":
        """Return a front end over a new service."""
        return cls(Service(context))

    def handle_batch(self, requests: Sequence[HttpRequest]) -> list[HttpResponse]:
        """Answer each request, in order. Raises nothing: whatever goes wrong with one request is its own answer."""
        began = time.monotonic()
        if self._keys is not None:
            self._keys.refresh()
        with self._telemetry.timing("decode"):
            calls = self._decode_batch(requests)
            task = self.service.task
            groups = [[task(request, call, caller) for request in call.requests] for call, caller in calls]
        self.service.serve([task for group in groups for task in group])
        responses = [_respond(call, group) for (call, _), group in zip(calls, groups, strict=True)]
        try:
            self._access_log.write(requests, [caller for _, caller in calls], groups, responses, began)
        except Exception:  # the requests are answered by now
            log.exception("internal_error")
        return responses

    def _decode_batch(self, requests: Sequence[HttpRequest]) -> list[tuple[Call, Caller]]:
        """Decode the requests together or, where a defect of ours raises, each alone, so that it fails no other request."""
        try:
            return self._decode_together(requests)
        except Exception:
            if len(requests) > 1:
                return [self._decode_batch([request])[0] for request in requests]
            log.exception("internal_error")
            return [(self._codec(requests[0]).failed(InternalError(NOT_DECODED)), ANYONE)]

    def _decode_together(self, requests: Sequence[HttpRequest]) -> list[tuple[Call, Caller]]:
        """Authenticate the requests, then decode them: the body of a request without a key is not looked at, but for its protocol.

        Bodies of the native protocol are decoded together.
        """
        callers, refused = self._callers(requests)
        if [request for request in requests if HEADER in request.headers]:
            requests = self._decompress(requests, refused)
        codecs = list(map(self._codec, requests))
        native = [i for i, codec in enumerate(codecs) if codec is self._native and i not in refused]
        if len(native) == len(requests):
            return list(zip(self._native.decode_batch(requests), callers, strict=True))
        together: dict[int, Call] = dict(zip(native, self._native.decode_batch([requests[i] for i in native]), strict=True))
        calls: list[tuple[Call, Caller]] = []
        for i, (codec, caller) in enumerate(zip(codecs, callers, strict=True)):
            call = codec.failed(refused[i]) if i in refused else together.get(i) or codec.decode(requests[i])
            calls.append((call, caller))
        return calls

    def _decompress(self, requests: Sequence[HttpRequest], refused: dict[int, CellstateError]) -> list[HttpRequest]:
        """Decode compressed bodies but of requests that are `refused`, to which those that cannot be decoded are added."""
        decoded = list(requests)
        for i, request in enumerate(requests):
            if i not in refused:
                outcome = decompressed(request, self._max_body)
                if isinstance(outcome, CellstateError):
                    refused[i] = outcome
                else:
                    decoded[i] = outcome
        return decoded

    def _codec(self, request: HttpRequest) -> AnyCodec:
        body = request.body
        if not request.path and HEADER_LENGTH not in request.headers and DATATYPE not in body and INSTANCES not in body:
            return self._native  # the usual case: nothing that any of the others looks for
        return next((codec for codec in self._recognised if codec.recognises(request)), self._native)

    def _callers(self, requests: Sequence[HttpRequest]) -> tuple[Sequence[Caller], dict[int, CellstateError]]:
        """Return who sent each request, and the errors of those whose key does not allow them, by position."""
        callers, refused = [ANYONE] * len(requests), dict[int, CellstateError]()
        if self._keys is not None:
            for i, request in enumerate(requests):
                try:
                    callers[i] = self._keys.authenticate(request.headers, PREDICT)
                except AccessError as e:
                    callers[i], refused[i] = Caller(e.key, tenant=""), e
        return callers, refused


def _respond(call: Call, tasks: Sequence[Task]) -> HttpResponse:
    try:
        return call.respond([task.error or task.reply for task in tasks])
    except Exception:
        log.exception("internal_error")
        return call.respond([_unanswerable() for _ in tasks])


def _unanswerable() -> CellstateError:
    return InternalError("the service failed to encode its answer; the request may be applied: send the same step again")
