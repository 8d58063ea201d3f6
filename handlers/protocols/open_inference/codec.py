"""The Open Inference Protocol as a codec: one inference request a body, of one or many rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import orjson

from handlers.engine.request import ALL_OUTPUTS, LABEL, PREDICTION, PROBABILITIES, Request, Result, StepResults
from handlers.errors import CellstateError, InvalidInput, TooLarge
from handlers.protocols.base import INSTANCES, KSERVE, HttpRequest, HttpResponse, error_text
from handlers.protocols.open_inference.binary import HEADER_LENGTH
from handlers.protocols.open_inference.decode import FORECAST, LOWER, TIMES, UNASKED, UPPER, Decoder
from handlers.protocols.open_inference.encode import (
    Row,
    Wanted,
    encode_response,
    encode_row,
    encode_rows,
    imputed_output,
    session_outputs,
    session_parameters,
    stack,
)
from handlers.protocols.open_inference.rows import SESSION
from handlers.protocols.open_inference.tensors import InferRequest, read_request
from handlers.protocols.validation import short_repr
from handlers.settings import Settings
from handlers.signature import Signature

DATATYPE = b'"datatype"'
BINARY = "application/octet-stream"
BY_STEP = (PREDICTION, LABEL, PROBABILITIES, ALL_OUTPUTS)  # of a model that predicts at every step
VERSION = re.compile(r"/v2/models/[^/]+/versions/([^/]+)/infer")


def version_in(path: str) -> str | None:
    """Return the version of the model that a path of the protocol names."""
    match = VERSION.fullmatch(path)
    return None if match is None else unquote(match[1])


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
        if len(self.requests) > 1:
            self._check_steps(row)
        return row

    def _check_steps(self, row: Row) -> None:
        """Raise InvalidInput for a row with more steps than were sent, because gaps were filled: a tensor has as many for all its rows."""
        sent = next(request.steps for request in self.requests if isinstance(request, Request))
        by_step = ("output", *BY_STEP) if self.signature.output_mode == "step" else ("output",)
        for output in self.wanted:
            if output.source in by_step and output.name in row.pieces and (steps := row.pieces[output.name].shape[0]) != sent:
                raise InvalidInput(
                    f"{output.name}: {steps} steps with the gaps that are filled, and {sent} of the other rows; nothing was applied: "
                    "send this row in a body of its own"
                )

    @staticmethod
    def encode_steps(calls: Sequence["OpenInferenceCall"], results: StepResults) -> list[Row]:
        """Encode the elements of one row for each call."""
        return encode_rows([(call.wanted, call.max_row_bytes) for call in calls], results)

    def respond(self, replies: Sequence[Row | CellstateError]) -> HttpResponse:
        """Put the rows together."""
        if not self.rows_fail_alone and (failed := next((e for e in replies if isinstance(e, CellstateError)), None)):
            return HttpResponse(failed.status, orjson.dumps({"error": error_text(failed)}), headers=failed.headers)
        outputs = stack(self.wanted, replies)
        outputs += imputed_output(replies, self.infer)
        parameters = {}
        if self.rows_fail_alone:
            outputs += session_outputs(replies, self.infer)
        elif isinstance(replies[0], Row):
            parameters = session_parameters(replies[0].session)
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
        if request.path == KSERVE and INSTANCES not in request.body:
            return True
        return HEADER_LENGTH in request.headers or request.path.startswith("/v2/") or DATATYPE in request.body

    def decode(self, request: HttpRequest) -> OpenInferenceCall:
        """Decode one body."""
        try:
            self._decoder.rules.check_body(len(request.body))
            infer = read_request(request.body, request.headers)
            self._check_version(infer.model_version or version_in(request.path))
            return self._call(self._decoder.requests(infer), infer)
        except CellstateError as e:
            return self.failed(e)

    def _check_version(self, version: str | None) -> None:
        """Raise InvalidInput where another version of the model is asked for than the one that would answer."""
        ours = self._signature
        if version is not None and version != ours.version:
            raise InvalidInput(
                f"model_version: {short_repr(version)} is asked for, but this request reached {ours.label}; "
                f"send it to /predictions/{ours.name}/{{version}}"
            )

    def failed(self, error: CellstateError) -> OpenInferenceCall:
        """Return the call of a body that is answered with `error`."""
        return self._call([error], InferRequest({}))

    def _call(self, requests: Sequence[Request | CellstateError], infer: InferRequest) -> OpenInferenceCall:
        key, max_row_bytes = self._limits.state_key.encode(), self._limits.max_reply // len(requests)
        return OpenInferenceCall(requests, infer, self._wanted(infer), self._signature, key, max_row_bytes, SESSION in infer.inputs)

    def _wanted(self, infer: InferRequest) -> list[Wanted]:
        """The client's choice; without one the prediction and what there is of a forecast. Times, where there are some, in any case."""
        y = self._decoder.y
        chosen = [output.name for output in infer.outputs if output.name not in UNASKED] if infer.outputs else [y, FORECAST, LOWER, UPPER]
        if TIMES not in chosen:
            chosen.append(TIMES)
        states = {entry.output for entry in self._signature.state}
        labels = {LABEL: self._signature.labels}
        sources = ["prediction" if name == y else name for name in chosen]
        return [
            Wanted(name, source, infer.in_binary(name), source in states, labels.get(source, ()))
            for name, source in zip(chosen, sources, strict=True)
        ]
