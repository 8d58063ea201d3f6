"""The KServe V1 protocol: windows in as `instances`, predictions out.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. Instances that are objects are the native
protocol's; this codec reads instances that are the windows themselves.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from handlers.engine.request import Request, Result, StepResults
from handlers.errors import CellstateError, InvalidInput, MalformedJson, TooLarge
from handlers.protocols import validation
from handlers.protocols.base import KSERVE, HttpRequest, HttpResponse, error_text
from handlers.protocols.rules import RequestRules
from handlers.protocols.validation import json_type
from handlers.settings import Settings
from handlers.signature import Signature

WINDOWS = re.compile(rb'\s*\{\s*"instances"\s*:\s*\[\s*[^\s{\]]')  # the first instance is no object
OBJECTS = re.compile(rb'\s*\{\s*"instances"\s*:\s*\[\s*\{')


@dataclass(slots=True)
class KServeV1Call:
    """One body. The protocol has no errors of rows: the first one is the whole answer."""

    requests: Sequence[Request | CellstateError]
    max_row_bytes: int

    def encode(self, result: Result) -> bytes:
        """Encode one prediction."""
        prediction = orjson.dumps(result.arrays["prediction"], option=orjson.OPT_SERIALIZE_NUMPY)
        if len(prediction) > self.max_row_bytes:
            raise TooLarge(f"reply: {len(prediction)} bytes, at most {self.max_row_bytes} here: send fewer steps or instances")
        return prediction

    @staticmethod
    def encode_steps(calls: Sequence["KServeV1Call"], results: StepResults) -> list[bytes]:
        """Encode one prediction for each call. The protocol knows no sessions, so that there are no steps in fact."""
        return [call.encode(results.result(i)) for i, call in enumerate(calls)]

    def respond(self, replies: Sequence[bytes | CellstateError]) -> HttpResponse:
        """Answer with `{"predictions": [...]}`, or with the first error."""
        for i, reply in enumerate(replies):
            if isinstance(reply, CellstateError):
                where = f"instances[{i}]: " if len(replies) > 1 else ""
                message = orjson.dumps({"error": f"{where}{error_text(reply)}"})
                return HttpResponse(reply.status, message, headers=reply.headers)
        return HttpResponse(200, b'{"predictions":[%b]}' % b",".join(reply for reply in replies if isinstance(reply, bytes)))


@dataclass(frozen=True)
class KServeV1Codec:
    """Decodes and encodes for one model under one set of limits."""

    signature: Signature
    limits: Settings
    rules: RequestRules = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", RequestRules(self.signature, self.limits))

    @staticmethod
    def recognises(request: HttpRequest) -> bool:
        """Whether the instances of a request are windows, or should be."""
        if request.path == KSERVE or request.path.startswith("/v1/"):  # what has instances is not of version 2
            return OBJECTS.match(request.body) is None
        return WINDOWS.match(request.body) is not None

    def decode(self, request: HttpRequest) -> KServeV1Call:
        """Decode one body."""
        try:
            return self._call([self._request(item) for item in self._instances(request.body)])
        except CellstateError as e:
            return self.failed(e)

    def failed(self, error: CellstateError) -> KServeV1Call:
        """Return the call of a body that is answered with `error`."""
        return self._call([error])

    def _call(self, requests: Sequence[Request | CellstateError]) -> KServeV1Call:
        return KServeV1Call(requests, self.limits.max_reply // len(requests))

    def _instances(self, body: bytes) -> list[Any]:
        self.rules.check_body(len(body))
        document = validation.parse_json(body)
        if not isinstance(document, dict):
            raise MalformedJson(f'body: expected a JSON object such as {{"instances": […]}}, got {json_type(document)}')
        validation.reject_unknown_fields(document, ("instances",), "body")
        items = document.get("instances")
        if not isinstance(items, list) or not items:
            raise InvalidInput(f"instances: expected a list of at least one window, got {json_type(items)}")
        self.rules.check_instances(len(items))
        return items

    def _request(self, item: Any) -> Request | CellstateError:
        try:
            if not isinstance(item, list) or not item:
                raise InvalidInput(f"instance: expected {self.rules.shape()}, got {json_type(item)} (signature {self.signature.label})")
            self.rules.check_steps(len(item))
            if self.signature.tokens:
                return Request(validation.tokens(item, self.signature))
            inputs, missing = validation.measurements(item, self.signature)
            request = Request(inputs, missing=missing)
            self.rules.check(request)
            return request
        except CellstateError as e:
            return e
