"""Send requests to any of several servers, and record every request with its answer.

Which requests make sense is the streams' concern; which answers are right is the oracle's.
"""

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import stamina

from loadtests.history import Answer, Invocation, Recorder
from loadtests.offline import Array

PATIENCE = 30.0  # seconds to wait for an answer, where the client is not in a hurry
WAIT_INITIAL, WAIT_MAX, WAIT_JITTER = 0.02, 0.5, 0.2  # seconds before a request is sent again
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
NOT_APPLIED = ("nothing was applied", "nothing was changed")  # in the message of a retryable error
SESSION = {"id": "session", "step": "step", "generation": "generation", "replayed": "replayed", "closed": "closed"}

stamina.instrumentation.set_on_retry_hooks([])  # retries are what this client is for: they belong in the history, not in the log


class Unsettled(Exception):
    """An answer does not tell where the session is."""


class Server:
    """A URL and the API key for it. A key `@FILE` is read from that file, and read again when the server refuses it."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self._token = url.rstrip("/"), token
        self.headers: dict[str, str] = {}
        self.renew()

    def renew(self) -> None:
        """Read the key. The old key is kept while the file cannot be read."""
        token = self._token
        if token.startswith("@"):
            try:
                token = Path(token[1:]).read_text().strip()
            except OSError:
                return
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


class Caller:
    """The connection of every stream to the servers. `end` is the monotonic time after which nothing is sent again."""

    def __init__(self, servers: Sequence[Server], model: str, rows: Array, recorder: Recorder, end: float) -> None:
        self.servers, self._model, self._rows, self._recorder, self.end = servers, model, rows, recorder, end
        self._states: dict[str, str] = {}  # by their digest
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(limits=limits, timeout=PATIENCE)

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def settle(self, invocation: Invocation, draw: random.Random, first: float = PATIENCE) -> Answer:
        """Send a request, to any server, until an answer tells where the session is. `first` is the patience of the first attempt."""
        timeout = max(0.001, self.end - time.monotonic())
        attempts = stamina.retry_context(
            Unsettled, attempts=None, timeout=timeout, wait_initial=WAIT_INITIAL, wait_max=WAIT_MAX, wait_jitter=WAIT_JITTER
        )
        answer = Answer()
        try:
            async for attempt in attempts:
                with attempt:
                    answer = await self.once(invocation, draw, first if attempt.num == 1 else PATIENCE)
                    if not answer.known:
                        raise Unsettled
        except Unsettled:
            pass  # the time is over: the last answer is all there is
        return answer

    async def once(self, invocation: Invocation, draw: random.Random, patience: float = PATIENCE) -> Answer:
        """Send a request once, to any server."""
        (answer,) = await self.together([invocation], draw, patience)
        return answer

    async def together(self, invocations: Sequence[Invocation], draw: random.Random, patience: float = PATIENCE) -> list[Answer]:
        """Send requests in one body, to any server. A single request is the body itself."""
        server = draw.randrange(len(self.servers))
        numbers = [self._recorder.invoke(replace(invocation, server=server)) for invocation in invocations]
        answers = await self._post(self.servers[server], invocations, patience)
        for number, answer in zip(numbers, answers, strict=True):
            self._recorder.answer(number, answer)
        return answers

    async def _post(self, server: Server, invocations: Sequence[Invocation], patience: float) -> list[Answer]:
        objects = [self._object(invocation) for invocation in invocations]
        body = orjson.dumps(objects[0] if len(objects) == 1 else {"instances": objects})
        timeout = httpx.Timeout(PATIENCE, read=patience)
        url = f"{server.url}/predictions/{self._model}"
        try:
            response = await self._http.post(url, content=body, headers=server.headers, timeout=timeout)
        except httpx.TransportError as e:
            return [Answer(not_applied=isinstance(e, NOT_SENT), detail=type(e).__name__)] * len(invocations)
        if response.status_code in (401, 403):
            server.renew()
        return self._answers(response.status_code, response.content, len(invocations))

    def _object(self, asked: Invocation) -> dict[str, Any]:
        """Return the request object."""
        session = {"id": asked.session, "step": asked.step, "generation": asked.generation, "to": asked.to, "from": asked.from_step}
        if asked.action != "step":
            session["action"] = asked.action
        request: dict[str, Any] = {"session": {name: value for name, value in session.items() if value is not None}}
        if asked.inputs is not None:
            request["inputs"] = self._rows[slice(*asked.inputs)].tolist()
        if asked.state is not None:
            request["state"] = self._states[asked.state]
        return request if asked.commit else request | {"commit": False}

    def _answers(self, status: int, content: bytes, count: int) -> list[Answer]:
        """Return the answer to each request of the body."""
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return [Answer(status, not_applied=status in range(400, 500), detail=content[:80].decode(errors="replace"))] * count
        items = document.get("predictions") if count > 1 and status == 200 else [document] * count
        if not isinstance(items, list) or len(items) != count:
            return [Answer(status, code="malformed", detail=str(items)[:80])] * count
        for item in items:
            if "state" in item:
                self._states[digest(item["state"])] = item["state"]
        return [answer(status, item) for item in items]


def digest(state: str) -> str:
    """Return the name of a state string in a history."""
    return hashlib.blake2b(state.encode(), digest_size=12).hexdigest()


def answer(status: int, item: dict[str, Any]) -> Answer:
    """Translate one reply object, a result or an error."""
    if status != 200 or "error" in item:
        return _refusal(status, item)
    session = item.get("session", {})
    told = {ours: session[theirs] for theirs, ours in SESSION.items() if theirs in session}
    return Answer(200, prediction=item.get("prediction"), state=digest(item["state"]) if "state" in item else None, **told)


STATUS = {  # of errors inside a body of several, which carry none
    "session_not_found": 404, "step_conflict": 409, "session_exists": 409, "model_changed": 409, "session_closed": 410,
    "session_expired": 410, "too_large": 413, "invalid_input": 422, "non_finite_result": 422, "overloaded": 429, "quota_exceeded": 429,
    "store_unavailable": 503, "draining": 503, "session_unreadable": 503, "internal_error": 500, "malformed_json": 400,
    "unknown_field": 400,
}  # fmt: skip


def _refusal(status: int, item: dict[str, Any]) -> Answer:
    error = item.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("code"), str) or status in (401, 403):
        # An error of TorchServe, or of the key: below 500 the request never reached the service.
        return Answer(status, not_applied=status in range(400, 500), detail=str(item.get("type", item))[:80])
    message, details = str(error.get("message", "")), error.get("details", {})
    not_applied = error.get("retryable") is True and any(words in message for words in NOT_APPLIED)
    status = STATUS.get(error["code"], status) if status == 200 else status
    position = {"expected": details.get("expected"), "generation": details.get("generation")}
    return Answer(status, error["code"], not_applied=not_applied, detail=message[:200] if status >= 500 else "", **position)
