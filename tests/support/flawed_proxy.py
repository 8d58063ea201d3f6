"""A proxy before a server that plants one kind of defect in what passes: what a load test must find and name."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

Json = dict[str, Any]


@dataclass
class Flaw:
    """Passes everything on unchanged. Subclasses change requests, replies or their time."""

    planted: int = 0
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self, request: Json) -> bytes | None:
        """The body of a 503 in place of an answer, or None."""
        return None

    def request(self, request: Json) -> Json:
        return request

    def reply(self, request: Json, reply: Json) -> Json:
        return reply

    def wait(self) -> None:
        """Hold a reply back."""


@dataclass
class Swapped(Flaw):
    """A session gets the answer of another one after the same number of steps, once in `every` answers."""

    every: int = 50
    seen: int = 0
    last: dict[int, Any] = field(default_factory=dict)  # the last prediction at each position

    def reply(self, request: Json, reply: Json) -> Json:
        step = reply.get("session", {}).get("step")
        if step is None or "prediction" not in reply:
            return reply
        with self.lock:
            self.seen += 1
            other, self.last[step] = self.last.get(step), reply["prediction"]
            if self.seen % self.every or other is None or other == reply["prediction"]:
                return reply
            self.planted += 1
        return reply | {"prediction": other}


@dataclass
class WrongDigit(Flaw):
    """One prediction in `every` is off by a little more than the tolerance."""

    every: int = 50
    seen: int = 0

    def reply(self, request: Json, reply: Json) -> Json:
        value = reply.get("prediction")
        if not isinstance(value, list) or not value or not isinstance(value[0], float):
            return reply
        with self.lock:
            self.seen += 1
            if self.seen % self.every:
                return reply
            self.planted += 1
        return reply | {"prediction": [value[0] + 5e-5 * max(1.0, abs(value[0])), *value[1:]]}


@dataclass
class AppliedTwice(Flaw):
    """A step that is sent again is applied again: the proxy takes the step's number away."""

    sent: set[tuple[str, int]] = field(default_factory=set)

    def request(self, request: Json) -> Json:
        session = request.get("session")
        if not isinstance(session, dict) or "step" not in session or "action" in session:
            return request
        key = str(session["id"]), int(session["step"])
        with self.lock:
            again = key in self.sent
            self.sent.add(key)
            self.planted += again
        return request | {"session": {"id": session["id"]}} if again else request


@dataclass
class Stalls(Flaw):
    """Everything stands still for `length` seconds, every `period` seconds."""

    period: float = 20.0
    length: float = 0.3

    def wait(self) -> None:
        into = (time.monotonic() - self.started) % self.period
        if into < self.length:
            time.sleep(self.length - into)


@dataclass
class Leak(Flaw):
    """Each reply takes longer than the one before: `growth` seconds more in each second."""

    growth: float = 0.002

    def wait(self) -> None:
        time.sleep(self.growth * (time.monotonic() - self.started))


@dataclass
class Refusing(Flaw):
    """One request in `every` is answered 503 the first time."""

    every: int = 40
    seen: int = 0

    def refuses(self, request: Json) -> bytes | None:
        with self.lock:
            self.seen += 1
            if self.seen % self.every:
                return None
            self.planted += 1
        return orjson.dumps({"error": {"code": "overloaded", "message": "nothing was applied", "retryable": True}})


FORWARDED = ("content-type", "authorization", "inference-header-content-length")
LENGTH = "inference-header-content-length"  # of a body with raw bytes, there and back
Answered = tuple[int, bytes, str | None]  # status, body, and LENGTH
Answer = Callable[[bytes, dict[str, str]], Answered]  # the headers are those that the client sent, and `x-path`


def forwarding(port: int) -> Answer:
    """Answer as the server at a port does."""
    local = threading.local()

    def answer(body: bytes, headers: dict[str, str]) -> Answered:
        for attempt in range(2):
            connection: HTTPConnection = getattr(local, "connection", None) or HTTPConnection("127.0.0.1", port, timeout=30)
            local.connection = connection
            try:
                connection.request("POST", headers["x-path"], body, {name: headers[name] for name in FORWARDED if name in headers})
                response = connection.getresponse()
                content = response.read()
            except (HTTPException, OSError):  # a connection that was closed after an error
                connection.close()
                local.connection = None
                if attempt:
                    raise
            else:
                return response.status, content, response.headers.get(LENGTH)
        raise AssertionError("unreachable")

    return answer


def _handler(flaw: Flaw, answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                request = orjson.loads(body)
            except orjson.JSONDecodeError:
                request = None
            status, content, length = self._answered(body, request)
            flaw.wait()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if length:
                self.send_header(LENGTH, length)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answered(self, body: bytes, request: Any) -> Answered:
            headers = {name.lower(): value for name, value in self.headers.items()} | {"x-path": self.path}
            if not isinstance(request, dict):
                return answer(body, headers)
            if (refusal := flaw.refuses(request)) is not None:
                return 503, refusal, None
            status, content, length = answer(orjson.dumps(flaw.request(request)), headers)
            if status != 200 or not content.startswith(b"{"):
                return status, content, length
            return status, orjson.dumps(flaw.reply(request, orjson.loads(content))), length

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def flawed(flaw: Flaw, answer: Answer) -> Iterator[str]:
    """A proxy with a flaw before `answer`; its URL."""
    server = _Server(("127.0.0.1", 0), _handler(flaw, answer))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
