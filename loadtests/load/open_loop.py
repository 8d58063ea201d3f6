"""Send requests when they are due, whether or not earlier ones have been answered, and measure each from the moment it was due.

A dispatcher puts what is due into a queue; connections, one greenlet each, take it out. A request waits in the queue only while every
connection is busy, and the wait is part of its latency: a server that stands still cannot slow the arrivals down.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import gevent
from gevent.queue import Queue

from loadtests.load.arrivals import ANY, Due
from loadtests.load.checks import Checker, Reply
from loadtests.load.driver import Driver, following
from loadtests.load.exchange import Exchange, Flow
from loadtests.load.scenarios import MakeFlow
from loadtests.load.transport import Connection

YIELD_EVERY = 50  # arrivals that are late anyway, after which the connections get their turn
POLL = 0.05


@dataclass
class Running:
    """A flow that has begun, the reply that it has not seen yet, and the moments at which it is due again while it is busy."""

    flow: Flow
    scenario: str
    reply: Reply | None = None
    busy: bool = False
    waiting: deque[Due] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Job:
    """One request that is due. `free`: a connection was free when it was due."""

    due: Due
    running: Running
    free: bool


class Flows:
    """Begin flows and find those that can go on: any idle one of a scenario, or the one of a session."""

    def __init__(self, checker: Checker, flows: Mapping[str, MakeFlow], weights: Mapping[str, int], prefix: str, seed: int) -> None:
        self._checker, self._flows, self._prefix = checker, flows, prefix
        self._names, self._weights = list(weights), list(weights.values())
        self._draw, self._numbers = random.Random(f"{prefix} {seed}"), count()
        self._idle: dict[str, deque[Running]] = {name: deque() for name in self._names}
        self._sessions: dict[int, Running] = {}

    def due(self, key: int) -> Running:
        """Return the flow that is due: that of session `key`, or any."""
        if key != ANY:
            if key not in self._sessions:
                self._sessions[key] = self._begin(self._names[0])
            return self._sessions[key]
        (name,) = self._draw.choices(self._names, self._weights)
        return self._idle[name].popleft() if self._idle[name] else self._begin(name)

    def next(self, running: Running) -> Exchange:
        """Return the next request of a flow. A flow that has ended is replaced by a new one of its scenario."""
        exchange = following(running.flow, running.reply)
        while exchange is None:
            running.flow = self._begin(running.scenario).flow
            exchange = following(running.flow, None)
        return exchange

    def done(self, key: int, running: Running, reply: Reply | None) -> None:
        """Keep a flow for its next request. `reply` is None where the answer was not right, and the flow begins anew."""
        running.reply = reply
        if reply is None:
            running.flow = self._begin(running.scenario).flow
        if key == ANY:
            self._idle[running.scenario].append(running)

    def _begin(self, name: str) -> Running:
        id = f"{self._prefix}-{next(self._numbers)}"
        return Running(self._flows[name](self._checker, self._draw, id), name)  # one source of chance: each has 2.5 KB of state


class OpenLoop:
    """The dispatcher of one generator process.

    Args:
        driver: what sends and measures.
        flows: what is sent.
        schedule: when.
        grace: seconds after the last arrival in which what is in the queue is still sent.
        on_end: called once, when all is done or the grace is over.
    """

    def __init__(self, driver: Driver, flows: Flows, schedule: Iterator[Due], grace: float, on_end: Callable[[], None]) -> None:
        self._driver, self._flows, self._schedule, self._grace, self._on_end = driver, flows, schedule, grace, on_end
        self._queue: Queue[Job | None] = Queue()
        self._idle = self._busy = self._open = 0
        self._closed = False

    def run(self) -> None:
        """Dispatch the whole schedule, then wait for what is under way."""
        for number, due in enumerate(self._schedule):
            if self._closed:
                break
            self._wait(due.at, number)
            self._driver.measurements.due(due.at)
            self._dispatch(due)
        end = self._driver.now() + self._grace
        while (self._busy or self._queue.qsize()) and self._driver.now() < end and not self._closed:
            gevent.sleep(POLL)
        self.close()
        self._on_end()

    def close(self) -> None:
        """Send nothing more, and wake the connections that wait."""
        if not self._closed:
            self._closed = True
            self._driver.measurements.unsent += self._queue.qsize()
            for _ in range(self._open):
                self._queue.put(None)

    def serve(self, connection: Connection) -> None:
        """Wait for one request that is due and send it."""
        if self._closed:
            gevent.sleep(POLL)
            return
        self._idle += 1
        job = self._queue.get()
        self._idle -= 1
        if job is None or self._closed:
            return
        self._busy += 1
        try:
            self._send(job, connection)
        finally:
            self._busy -= 1

    def joined(self) -> None:
        """Count another connection."""
        self._open += 1

    def _wait(self, at: float, number: int) -> None:
        ahead = at - self._driver.now()
        if ahead > 0 or number % YIELD_EVERY == 0:
            gevent.sleep(max(0.0, ahead))

    def _dispatch(self, due: Due) -> None:
        running = self._flows.due(due.key)
        if running.busy:  # the session's previous request has not been answered: requests of one session keep their order
            running.waiting.append(due)
            return
        running.busy = True
        self._queue.put(Job(due, running, free=self._idle > self._queue.qsize()))

    def _send(self, job: Job, connection: Connection) -> None:
        measurements, running = self._driver.measurements, job.running
        measurements.connections = max(measurements.connections, self._busy)
        if job.free:
            measurements.late(max(0.0, self._driver.now() - job.due.at))
        else:
            measurements.waited += 1
        reply, problem = self._driver.perform(self._flows.next(running), connection, job.due.at)
        running.busy = False
        self._flows.done(job.due.key, running, reply if problem is None else None)
        if running.waiting:
            running.busy = True
            self._queue.put(Job(running.waiting.popleft(), running, free=False))
