"""Run the requests of flows over a connection: send, repeat what may be repeated, check, and measure."""

import time
from collections.abc import Callable

import stamina

from loadtests.load.checks import MALFORMED, Checker, Problem, Reply, failure
from loadtests.load.exchange import Exchange, Flow
from loadtests.load.measurements import Measurements
from loadtests.load.transport import Connection

WAIT_INITIAL, WAIT_MAX, WAIT_JITTER = 0.05, 2.0, 0.2  # seconds before a request is sent again

stamina.instrumentation.set_on_retry_hooks([])  # every failed attempt is counted, and need not be logged


class NotAnswered(Exception):
    """An attempt failed, and the request may be sent again."""


Observer = Callable[[Exchange, float, Problem | None], None]  # request, latency in seconds, what is wrong


class Driver:
    """Send exchanges and measure them. One for each generator process.

    Args:
        measurements: where to count.
        checker: where the largest difference is kept.
        retry_seconds: how long a request that may be repeated is repeated.
        observe: called with each request that was done.
    """

    def __init__(self, measurements: Measurements, checker: Checker, retry_seconds: float, observe: Observer) -> None:
        self.measurements, self.checker, self._retry_seconds, self._observe = measurements, checker, retry_seconds, observe
        self._started = time.perf_counter()

    def restart(self) -> None:
        """Count seconds from now."""
        self._started = time.perf_counter()

    def now(self) -> float:
        """Return the seconds since the load started."""
        return time.perf_counter() - self._started

    def run(self, flow: Flow, connection: Connection) -> None:
        """Send the requests of a flow one after the other, until the flow ends or an answer is not right."""
        exchange = following(flow, None)
        while exchange is not None:
            reply, problem = self.perform(exchange, connection, self.now())
            exchange = following(flow, reply) if problem is None else None

    def perform(self, exchange: Exchange, connection: Connection, due: float) -> tuple[Reply, Problem | None]:
        """Send one request until it is answered, check the answer, and measure from the moment it was due."""
        reply = self._send(exchange, connection)
        latency = self.now() - due
        problem = checked(exchange, reply)
        if problem is not None:
            self.measurements.problem(problem)
        self.measurements.largest_difference = self.checker.largest
        self.measurements.answer(exchange.kind, due, latency, problem, reply.attempt - 1)
        self._observe(exchange, latency, problem)
        return reply, problem

    def _send(self, exchange: Exchange, connection: Connection) -> Reply:
        reply = connection.send(exchange)
        if not reply.retryable or not self._retry_seconds:
            return reply
        attempts = stamina.retry_context(
            NotAnswered,
            attempts=None,
            timeout=self._retry_seconds,
            wait_initial=WAIT_INITIAL,
            wait_max=WAIT_MAX,
            wait_jitter=WAIT_JITTER,
        )
        try:
            for attempt in attempts:
                with attempt:
                    if attempt.num > 1:  # the first was sent above
                        self.measurements.attempt_failed(self.now(), failure(reply))
                        reply = connection.send(exchange, attempt.num)
                    if reply.retryable:
                        raise NotAnswered
        except NotAnswered:
            pass  # the time is over: the last answer is all there is
        return reply


def checked(exchange: Exchange, reply: Reply) -> Problem | None:
    """Check an answer. One of a structure that the check did not expect is malformed."""
    try:
        return exchange.check(reply)
    except (TypeError, AttributeError, LookupError, ValueError) as e:
        return Problem(MALFORMED, f"{e!r} in {reply.content[:200].decode(errors='replace')}")


def following(flow: Flow, reply: Reply | None) -> Exchange | None:
    """Return the first request of a flow, or the one after `reply`; None when the flow has ended."""
    try:
        return next(flow) if reply is None else flow.send(reply)
    except StopIteration:
        return None
