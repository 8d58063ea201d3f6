"""A caller of the service: one connection, a key of the server as it now runs, and patience where a test asks for it.

It knows HTTP and the wire format. It does not know models; what an answer should be is for the tests.
"""

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy as np

from host.torchserve.launcher import TorchServe
from tests.support.served_models import Json, Model, assert_close

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

    def attempt(self, **fields: Json) -> httpx.Response | None:
        """One try; None when no whole answer came back, or the server is down."""
        try:
            return self.send(**fields)
        except (httpx.TransportError, OSError, ValueError):
            return None


def error_code(response: httpx.Response) -> str:
    """The stable code of an error of ours; empty for what is none of ours."""
    try:
        return str(response.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


class Stream:
    """One session fed by one caller who sends the same step again until it is answered, and everything that caller was told."""

    LENGTH = 20_000  # steps prepared

    def __init__(self, server: TorchServe, model: Model, id: str, seed: int, horizon: int = 0) -> None:
        self.model, self.id = model, id
        self.client = Client(server, model.name)
        self.unanswered = 0  # tries that brought no answer, or one that promised nothing
        self.position = 0  # steps acknowledged
        self.inputs = model.inputs(self.LENGTH, seed)
        self._rng = np.random.default_rng(seed)
        self._told: list[tuple[int, list[float]]] = []  # position, prediction
        self._more = {"horizon": horizon, "future": [[0.0, 1.0]] * horizon} if horizon else {}  # keeps the worker busy for a while

    def request(self) -> dict[str, Json]:
        """The next request: some steps from where the stream is."""
        steps = self.inputs[self.position : self.position + int(self._rng.integers(1, 4))]
        return {"inputs": steps, "session": {"id": self.id, "step": self.position}, **self._more}

    def advance(self) -> None:
        """Send the next steps until they are answered."""
        request = self.request()
        self.acknowledged(request, until(lambda: self._answer(request), f"{self.id} at step {self.position}: an answer"))

    def _answer(self, request: dict[str, Json]) -> dict[str, Any] | None:
        response = self.client.attempt(**request)
        if response is not None and response.status_code == 200:
            return dict(response.json())
        # Without a code it is the host that refuses: the token was that of the server before a restart.
        refused = response is not None and response.status_code < 500 and error_code(response) != ""
        assert not refused, f"{self.id} at step {self.position}: {response.text if response else ''}"
        self.unanswered += 1
        return None

    def acknowledged(self, request: dict[str, Json], answer: dict[str, Any]) -> None:
        self.position += len(request["inputs"])
        assert answer["session"]["step"] == self.position, f"{self.id}: answered {answer['session']}, expected step {self.position}"
        self._told.append((self.position, answer["prediction"]))

    def run(self, stop: threading.Event) -> None:
        """Feed until told to stop."""
        while not stop.is_set() and self.position < self.LENGTH - 4:
            self.advance()

    def check(self) -> None:
        """All that was told equals the offline run over the same steps, and so does the state; no step was lost or repeated."""
        assert self.client.position(self.id) == self.position
        reference = self.model.run(self.inputs[: self.position])
        ends = [position - 1 for position, _ in self._told]
        assert_close([told for _, told in self._told], reference.y[ends], f"{self.id}: {len(ends)} predictions")
        following = self.inputs[self.position : self.position + 1]
        after = self.model.run(following, reference.state)
        found = self.client.ask(inputs=following, session={"id": self.id}, commit=False, **{"return": ["h_n", "c_n"]})
        assert_close(found["h_n"], after.h_n, f"{self.id}: h_n after step {self.position + 1}")
        assert_close(found["c_n"], after.c_n, f"{self.id}: c_n after step {self.position + 1}")

    def close(self) -> None:
        self.client.__exit__(None, None, None)
