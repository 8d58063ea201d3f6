"""Runs many jobs over one server, each a sequence of requests, so that their requests travel together as `instances`.

A job is a generator: it yields a request object and is sent the answer, or the error of that request alone. The requests of many jobs make
one body. Every request that changes a session names the session's step, so that a body may be sent again.
"""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import Any, Generic, TypeAlias, TypeVar

import httpx

from cellstate import CellstateError, Client, RetryPolicy
from cellstate.exchange import Caller
from cellstate.tokens import Token, TokenSource
from cellstate.wire import path

T = TypeVar("T")
Json: TypeAlias = dict[str, Any]
Answer: TypeAlias = Json | CellstateError
Job: TypeAlias = Generator[Json, Answer, T]
ROWS = 64  # requests in one body
PARALLEL = 2  # bodies on their way at the same time


class Server:
    """One model of a server. May be shared by threads."""

    def __init__(
        self, url: str, model: str, key: Token = None, policy: RetryPolicy | None = None, http: httpx.Client | None = None
    ) -> None:
        chosen = policy or RetryPolicy(deadline=300.0, timeout=60.0)
        self._client = Client(url, key, policy=chosen, http=http)
        self._caller, self._path = Caller(TokenSource(key), chosen), path(model)

    def post(self, requests: list[Json]) -> list[Answer]:
        """Send requests as one body; return the answer or the error of each.

        Raises:
            CellstateError: the body as a whole was not answered.
        """
        return self._client.run(self._caller.post_rows(self._path, requests))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def run(server: Server, jobs: Iterable[Job[T]], done: Callable[[T], None], rows: int = ROWS, parallel: int = PARALLEL) -> None:
    """Run the jobs, `rows` of them in one body and `parallel` bodies at a time; call `done` with what each returns, from any thread.

    Raises:
        CellstateError: a body as a whole was not answered; the others on their way are, and no further one is sent.
    """
    lanes, pool = _Lanes(server, jobs, done, rows), ThreadPoolExecutor(parallel)
    try:
        futures = [pool.submit(lanes.run) for _ in range(parallel)]
        wait(futures, return_when=FIRST_EXCEPTION)
        lanes.stopping.set()
        for future in futures:
            future.result()
    finally:
        lanes.stopping.set()  # also where the person at the terminal interrupts
        pool.shutdown()


class _Lanes(Generic[T]):
    """What the threads share: the jobs that have not begun, and whether to stop."""

    def __init__(self, server: Server, jobs: Iterable[Job[T]], done: Callable[[T], None], rows: int) -> None:
        self._server, self._jobs, self._done, self._rows = server, iter(jobs), done, rows
        self._lock, self.stopping = Lock(), Event()

    def run(self) -> None:
        """Send bodies one after the other, until no job is left."""
        active: list[tuple[Job[T], Json]] = []
        while not self.stopping.is_set():
            while len(active) < self._rows and (job := self._next()) is not None:
                active += self._advanced(job, None)
            if not active:
                return
            answers = self._server.post([request for _, request in active])
            active = [going_on for (job, _), answer in zip(active, answers, strict=True) for going_on in self._advanced(job, answer)]

    def _next(self) -> Job[T] | None:
        with self._lock:
            return next(self._jobs, None)

    def _advanced(self, job: Job[T], answer: Answer | None) -> list[tuple[Job[T], Json]]:
        """Send the job its answer; return it with its next request, or nothing where it has ended."""
        try:
            return [(job, job.send(answer))]  # type: ignore[arg-type]  # None begins it
        except StopIteration as ended:
            self._done(ended.value)
            return []
