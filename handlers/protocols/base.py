"""The seam of the protocols: a codec turns one HTTP request into neutral requests, and their results into one HTTP response."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from msgspec import Struct

from handlers.engine.request import Request, Result, StepResults
from handlers.errors import CellstateError

JSON = "application/json"
INSTANCES = b'"instances"'  # in every body of KServe V1, and of the native protocol where there are many
KSERVE = "/v"  # all that a server may know of a path: that it is one of KServe's protocols, `/v1/…` or `/v2/…`


class HttpRequest(Struct):
    """What a client sent to one model. Names of headers are in lower case."""

    body: bytes
    headers: Mapping[str, str] = {}
    path: str = ""  # of the URL, or its beginning; empty where the server does not tell
    id: str = ""  # the server's, for the log; empty where it gives none


class HttpResponse(Struct):
    """What a client is answered with."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = {}

    @property
    def phrase(self) -> str:
        """The reason phrase of the status."""
        return HTTPStatus(self.status).phrase


def error_text(error: CellstateError) -> str:
    """Put what a client may know of an error into one string, for protocols that have no more."""
    return f"{error.code}: {error.body()['message']}"


class Call(Protocol):
    """One HTTP request, decoded: one request, or many."""

    requests: Sequence[Request | CellstateError]  # what could not be decoded is an error

    def encode(self, result: Result) -> Any:
        """Encode the result of one of the requests, before it is committed.

        Raises:
            TooLarge: the reply cannot be sent.
        """

    @staticmethod
    def encode_steps(calls: Sequence[Any], results: StepResults) -> Sequence[Any]:
        """Encode the results of steps as `encode` does, one for each of the calls, which are of this class.

        Raises:
            TooLarge: one of the replies cannot be sent.
        """

    def respond(self, replies: Sequence[Any]) -> HttpResponse:
        """Put together what `encode` made of each request in order, or the CellstateError that it ended with."""


class Codec(Protocol):
    """One protocol, for one model."""

    def decode(self, request: HttpRequest) -> Call:
        """Decode one HTTP request. Raises nothing that a client can cause: it is among the call's requests."""
