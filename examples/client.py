"""A client of a streaming session, as short as it may be: it names each step, so it may send one again until it is answered."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

RETRY = 0.05  # seconds before the same step is sent again
TRANSIENT = frozenset({429, 500, 502, 503, 507})  # the host answers 500 or 507 for a worker that died


class Stream:
    """One session of one model. `position` is the number of steps that the service has acknowledged.

    `headers` gives those of a request; it is asked again when a token is refused, for a server that was started anew has another one.
    """

    def __init__(self, url: str, headers: Callable[[], Mapping[str, str]], session: str, patience: float = 60.0) -> None:
        self._http = httpx.Client(headers=headers(), timeout=30.0)
        self._url, self._headers, self._id, self._patience = url, headers, session, patience
        self.position = self.retries = self.replayed = 0

    def step(self, inputs: Sequence[Sequence[float]], **more: Any) -> dict[str, Any]:
        """Send T steps `[T, F]`; returns the answer. A lost answer is asked for again: the service applies a step once, however often
        it is sent. Raises RuntimeError when it is refused, TimeoutError when nothing answers in time."""
        answer = self._post({"inputs": inputs, "session": {"id": self._id, "step": self.position}, **more})
        self.position += len(inputs)
        self.replayed += answer["session"]["replayed"]
        return answer

    def describe(self) -> dict[str, Any]:
        """Where the service has the session."""
        description: dict[str, Any] = self._post({"session": {"id": self._id, "action": "describe"}})["session"]
        return description

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            answer = self._try(body)
            if answer is not None:
                return answer
            self.retries += 1
            time.sleep(RETRY)
        raise TimeoutError(f"session {self._id}: no answer within {self._patience:.0f} s at step {self.position}")

    def _try(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """One attempt; None when it is worth another."""
        try:
            response = self._http.post(self._url, json=body)
        except httpx.TransportError:
            return None
        if response.status_code in TRANSIENT:
            return None
        if response.status_code == 400 and "InvalidKeyException" in response.text:
            self._http.headers.update(self._headers())
            return None
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer
