"""A client of one model over HTTP: one connection, and a key of the server as it now runs."""

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import httpx

from host.torchserve.launcher import TorchServe
from tests.support.served_models import Json

Connect = Callable[[TorchServe, str], "Client"]  # a server and a model's name; made by the fixture of that name
POLL = 0.1  # seconds between two looks while waiting
T = TypeVar("T")


def until(found: Callable[[], T], what: str, deadline: float = 90.0) -> T:
    """Look until `found()` is true, and return it; fail after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := found()):
        assert time.monotonic() < end, f"{what}: not within {deadline:.0f} s"
        time.sleep(POLL)
    return value


class Client:
    """One caller of one model."""

    def __init__(self, server: TorchServe, model: str) -> None:
        self.server, self.url = server, f"{server.url}/predictions/{model}"
        self._http = httpx.Client(timeout=60)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def post(self, body: bytes, content_type: str | None = "application/json") -> httpx.Response:
        """Send bytes as they are."""
        headers: dict[str, str | bytes] = dict(self.server.headers())
        if content_type is not None:
            headers["Content-Type"] = content_type.encode("latin-1")
        return self._http.post(self.url, content=body, headers=headers)

    def send(self, **fields: Json) -> httpx.Response:
        return self.post(json.dumps(fields).encode())

    def ask(self, **fields: Json) -> dict[str, Any]:
        """The answer's body; fails unless it is a 200."""
        response = self.send(**fields)
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        return dict(response.json())

    def refusal(self, status: int, code: str, **fields: Json) -> dict[str, Any]:
        """The error's body; fails unless status and code are these."""
        response = self.send(**fields)
        found = response.status_code, error_code(response)
        assert found == (status, code), f"{found}: {response.text[:500]}"
        return dict(response.json()["error"])

    def position(self, session: str) -> int:
        """The number of steps the session has consumed."""
        return int(self.ask(session={"id": session, "action": "describe"})["session"]["step"])


def error_code(response: httpx.Response) -> str:
    """The stable code of an error of ours; empty for what is none of ours."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
