"""One request, sent again until it is answered: without sockets, sleeping or threads.

An `Exchange` is a generator. It yields `Send` and `Wait`, is sent the `Response` or the `ConnectionFailed` of each `Send`, and returns the
answer or raises a CellstateError. The synchronous and the asynchronous client carry the same exchanges out.
"""

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from cellstate.errors import CellstateError, ConnectionFailed, DeadlineExceeded, Unauthenticated
from cellstate.tokens import TokenSource
from cellstate.wire import HEADERS, Json, Response, decode, decode_rows, encode

T = TypeVar("T")
MAX_REFUSALS = 3  # of tokens that were read again, before the refusal is believed
SHORTEST_TIMEOUT = 0.001  # seconds; 0 would mean something else to some transports


@dataclass(frozen=True, slots=True)
class Send:
    """POST `content` to `path`, and wait `timeout` seconds for each phase of the attempt."""

    path: str
    headers: Mapping[str, str]
    content: bytes
    timeout: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for that many seconds."""

    seconds: float


Event: TypeAlias = Send | Wait
Outcome: TypeAlias = Response | ConnectionFailed | None  # of a Send; None of a Wait
Exchange: TypeAlias = Generator[Event, Outcome, T]


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """One attempt failed, and the same request is sent again after `pause` seconds. `attempt` counts from 1."""

    attempt: int
    pause: float
    cause: CellstateError


@dataclass(frozen=True)
class RetryPolicy:
    """How long a request is repeated: exponential backoff with full jitter.

    The pause after the n-th failed attempt is drawn uniformly from 0 to `first_pause * 2**(n - 1)`, at most `max_pause` (seconds), so that
    clients that failed together do not return together. A Retry-After of the server is added to it, for the same reason. Source:
    M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    deadline: float = 60.0  # seconds for one call with all its attempts
    timeout: float = 30.0  # seconds for connecting, for sending and for answering, of one attempt
    first_pause: float = 0.1
    max_pause: float = 5.0
    on_retry: Callable[[RetryEvent], None] | None = None  # called before each pause, for logs and metrics
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform


class Attempts:
    """The attempts of one call: how many there were and how much time is left."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._end = policy.clock() + policy.deadline
        self._failed = 0

    @property
    def timeout(self) -> float:
        """Seconds for the next attempt."""
        return min(self._policy.timeout, max(SHORTEST_TIMEOUT, self._end - self._policy.clock()))

    def pause(self, cause: CellstateError) -> Exchange[None]:
        """Wait before the next attempt. Raises DeadlineExceeded when no time is left for one."""
        most = min(self._policy.max_pause, self._policy.first_pause * 2 ** min(self._failed, 32))
        seconds = self._policy.uniform(0.0, most) + (getattr(cause, "retry_after", None) or 0.0)
        self._failed += 1
        if self._policy.clock() + seconds >= self._end:
            raise DeadlineExceeded(f"no answer within {self._policy.deadline:g} s in {self._failed} attempts; the last: {cause}") from cause
        if self._policy.on_retry is not None:
            self._policy.on_retry(RetryEvent(self._failed, seconds, cause))
        yield Wait(seconds)


class Caller:
    """Posts documents to one server, with its current token."""

    def __init__(self, token: TokenSource, policy: RetryPolicy) -> None:
        self._token, self._policy = token, policy

    def post(self, path: str, document: Json) -> Exchange[Json]:
        """Send one document until it is answered."""
        return (yield from self._post(path, document, Attempts(self._policy)))

    def post_rows(self, path: str, documents: Sequence[Json]) -> Exchange[list[Json | CellstateError]]:
        """Send many documents as one body; each gets its own answer or error. Rows that may be repeated are sent again, without the others.

        Raises the error of the whole body when no row was answered at all.
        """
        attempts = Attempts(self._policy)
        answers: dict[int, Json | CellstateError] = {}
        waiting = list(range(len(documents)))
        while waiting:
            try:
                reply = yield from self._post(path, {"instances": [documents[i] for i in waiting]}, attempts)
                answers.update(zip(waiting, decode_rows(reply, len(waiting)), strict=True))
                failed = {i: row for i in waiting if isinstance(row := answers[i], CellstateError) and row.retryable}
                waiting = list(failed)
                if failed:
                    yield from attempts.pause(next(iter(failed.values())))
            except CellstateError as e:
                if not answers:
                    raise
                answers.update(dict.fromkeys(waiting, e))
                break
        return [answers[i] for i in range(len(documents))]

    def _post(self, path: str, document: Json, attempts: Attempts) -> Exchange[Json]:
        content, refusals = encode(document), 0
        while True:
            outcome = yield Send(path, HEADERS | self._token.headers(), content, attempts.timeout)
            try:
                return decode(outcome)
            except Unauthenticated as e:
                refusals += 1
                if not self._token.renewable or refusals > MAX_REFUSALS:
                    raise
                self._token.renew()
                cause: CellstateError = e
            except CellstateError as e:
                if not e.retryable:
                    raise
                cause = e
            yield from attempts.pause(cause)
