"""A host in memory for HTTP clients: it passes bodies to a service as TorchServe does, and has faults where a test wants them."""

import collections
import re
from typing import Any, TypeAlias

import httpx
import orjson

from handlers.errors import Unauthenticated
from tests.support.in_process import InProcess

Fault: TypeAlias = httpx.Response | str | None  # answered instead; "unsent", "unanswered": see HostInMemory; None: no fault


class HostInMemory:
    """The handler of an `httpx.MockTransport`.

    `faults` are used up, one a request: "unsent" breaks the connection before the request arrives, "unanswered" after it was served, a
    response is answered in the service's place. `bodies` are those that arrived.
    """

    def __init__(self, model: str, service: InProcess, token: str | None = None) -> None:
        self.model, self.service, self.token = model, service, token
        self.faults: collections.deque[Fault] = collections.deque()
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, httpx.Response):
            return httpx.Response(fault.status_code, headers=fault.headers, content=fault.content)  # one can be read only once
        if fault == "unsent":
            raise httpx.ConnectError("connection refused", request=request)
        response = self._serve(request)
        if fault == "unanswered":
            raise httpx.ReadTimeout("no answer", request=request)
        return response

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The bodies, decoded."""
        return [orjson.loads(body) for body in self.bodies]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The `session` field of each body."""
        return [document["session"] for document in self.documents]

    @property
    def transport(self) -> httpx.MockTransport:
        """For `httpx.Client` and `httpx.AsyncClient` alike."""
        return httpx.MockTransport(self)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return httpx.Response(401, json={"error": Unauthenticated("the key is not known").body()})
        if not re.fullmatch(rf"/predictions/{self.model}(/[^/]+)?", request.url.path):
            return host_error(404, "ModelNotFoundException", f"Model not found: {request.url.path}")
        self.bodies.append(request.content)
        [outcome] = self.service.handle_batch([request.content])
        return httpx.Response(outcome.status, content=outcome.body, headers={"content-type": "application/json"})


def host_error(status: int, kind: str, message: str, **headers: Any) -> httpx.Response:
    """An error as TorchServe answers it."""
    return httpx.Response(status, json={"code": status, "type": kind, "message": message}, headers=headers)
