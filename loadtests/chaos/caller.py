"""One delivery after another: a request goes to one of the servers, and what was asked and answered goes into the history.

It knows HTTP and what the service's answers look like. It does not know which requests make sense, or which answers are right.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson

from loadtests.history import Answer, Ask, Recorder
from loadtests.load.expected import Array

PATIENT = 30.0  # seconds for an answer, where the client is not in a hurry
PAUSE = 0.02, 0.5  # seconds before the same request is sent again: at first, and at most
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
UNTOUCHED = ("nothing was applied", "nothing was changed")  # in the words of a retryable error
SESSION = {"id": "session", "step": "step", "replayed": "replayed", "closed": "closed"}


class Server:
    """A URL and its token; `@FILE` reads the token from a server's key file, again when the token is refused."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self._token = url.rstrip("/"), token
        self.headers: dict[str, str] = {}
        self.renew()

    def renew(self) -> None:
        """Read the token. A file that is being written keeps the old one."""
        token = self._token
        if token.startswith("@"):
            try:
                token = str(orjson.loads(Path(token[1:]).read_bytes())["inference"]["key"])
            except (OSError, ValueError, KeyError):
                return
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


class Caller:
    """Every client's way to the servers. `end` is the monotonic time after which nothing is sent again."""

    def __init__(self, servers: Sequence[Server], model: str, rows: Array, recorder: Recorder, end: float) -> None:
        self.servers, self._model, self._rows, self._recorder, self.end = servers, model, rows, recorder, end
        self._states: dict[str, str] = {}  # by their digest
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(limits=limits, timeout=PATIENT)

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def settle(self, ask: Ask, draw: random.Random, first: float = PATIENT) -> Answer:
        """Send the same request, to any server, until an answer tells where the session is; the `first` try may be short of time."""
        pause, patience = PAUSE[0], first
        while True:
            answer = await self.once(ask, draw, patience)
            if answer.known or time.monotonic() > self.end:
                return answer
            await asyncio.sleep(pause * draw.uniform(0.5, 1.5))
            pause, patience = min(2 * pause, PAUSE[1]), PATIENT

    async def once(self, ask: Ask, draw: random.Random, patience: float = PATIENT) -> Answer:
        """Send it once, to any server."""
        (answer,) = await self.together([ask], draw, patience)
        return answer

    async def together(self, asks: Sequence[Ask], draw: random.Random, patience: float = PATIENT) -> list[Answer]:
        """Send the requests in one body, to any server; alone a request is the body."""
        place = draw.randrange(len(self.servers))
        numbers = [self._recorder.ask(_at(ask, place)) for ask in asks]
        answers = await self._post(self.servers[place], asks, patience)
        for number, answer in zip(numbers, answers, strict=True):
            self._recorder.answer(number, answer)
        return answers

    async def _post(self, server: Server, asks: Sequence[Ask], patience: float) -> list[Answer]:
        objects = [self._object(ask) for ask in asks]
        body = orjson.dumps(objects[0] if len(objects) == 1 else {"instances": objects})
        timeout = httpx.Timeout(PATIENT, read=patience)
        url = f"{server.url}/predictions/{self._model}"
        try:
            response = await self._http.post(url, content=body, headers=server.headers, timeout=timeout)
        except httpx.TransportError as e:
            return [Answer(nothing=isinstance(e, NOT_SENT), said=type(e).__name__)] * len(asks)
        if response.status_code in (400, 401, 403):
            server.renew()
        return self._answers(response.status_code, response.content, len(asks))

    def _object(self, ask: Ask) -> dict[str, Any]:
        """The request object."""
        session = {"id": ask.session, "step": ask.step, "to": ask.to, "from": ask.origin}
        if ask.action != "step":
            session["action"] = ask.action
        request: dict[str, Any] = {"session": {name: value for name, value in session.items() if value is not None}}
        if ask.inputs is not None:
            request["inputs"] = self._rows[slice(*ask.inputs)].tolist()
        if ask.state is not None:
            request["state"] = self._states[ask.state]
        return request if ask.commit else request | {"commit": False}

    def _answers(self, status: int, content: bytes, count: int) -> list[Answer]:
        """What a response says of each request in the body."""
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return [Answer(status, nothing=400 <= status < 500, said=content[:80].decode(errors="replace"))] * count
        items = document.get("predictions") if count > 1 and status == 200 else [document] * count
        if not isinstance(items, list) or len(items) != count:
            return [Answer(status, code="malformed", said=str(items)[:80])] * count
        for item in items:
            if "state" in item:
                self._states[digest(item["state"])] = item["state"]
        return [answer(status, item) for item in items]


def digest(state: str) -> str:
    """The name of a state string in a history."""
    return hashlib.blake2b(state.encode(), digest_size=12).hexdigest()


def answer(status: int, item: dict[str, Any]) -> Answer:
    """What one reply object says, a result or an error."""
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
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):  # the host's: below 500 it was turned away at the door
        return Answer(status, nothing=400 <= status < 500, said=str(item.get("type", item))[:80])
    said = str(error.get("message", ""))
    nothing = error.get("retryable") is True and any(words in said for words in UNTOUCHED)
    expected = error.get("details", {}).get("expected")
    status = STATUS.get(error["code"], status) if status == 200 else status
    return Answer(status, error["code"], expected=expected, nothing=nothing, said=said[:200] if status >= 500 else "")


def _at(ask: Ask, place: int) -> Ask:
    values = {name: getattr(ask, name) for name in Ask.__slots__}
    return Ask(**values | {"server": place})
