"""A load test without Locust or a server of its own process: flows over real connections to a proxy before a service in this process."""

import threading
from collections.abc import Iterator, Mapping

import gevent
import gevent.event

from handlers.protocols.base import HttpRequest
from loadtests.load.answers import Answers
from loadtests.load.arrivals import Due
from loadtests.load.checks import Checker
from loadtests.load.driver import Driver
from loadtests.load.exchange import HEADER_LENGTH
from loadtests.load.flows import meter
from loadtests.load.measurements import Measurements
from loadtests.load.open_loop import Flows, OpenLoop
from loadtests.load.scenarios import SCENARIOS, MakeFlow
from loadtests.load.transport import Connection, Target
from tests.support.flawed_proxy import Answer, Answered, Flaw, flawed
from tests.support.in_process import InProcess

FLOWS: dict[str, MakeFlow] = {name: scenario.flow for name, scenario in SCENARIOS.items()} | {"meter": meter}


def serving(service: InProcess) -> Answer:
    """Answer as a server over the service does, a request at a time."""
    lock = threading.Lock()

    def answer(body: bytes, headers: dict[str, str]) -> Answered:
        with lock:
            [response] = service.frontend.handle_batch([HttpRequest(body, headers, headers["x-path"])])
        return response.status, bytes(response.body), response.headers.get(HEADER_LENGTH)

    return answer


def open_loop(
    answers: Answers,
    answer: Answer,
    flaw: Flaw,
    schedule: Iterator[Due],
    mix: Mapping[str, int],
    connections: int = 8,
    retry_seconds: float = 0.0,
) -> Measurements:
    """Send the schedule's requests through a flawed proxy; what was measured."""
    with flawed(flaw, answer) as url:
        target, checker, measurements = Target(url, answers.model), Checker(answers), Measurements()
        driver = Driver(measurements, checker, retry_seconds, lambda *_: None)
        flows = Flows(checker, {name: FLOWS[name] for name in mix}, mix, "test", seed=0)
        loop = OpenLoop(driver, flows, schedule, grace=10.0, on_end=lambda: ended.set())
        ended = gevent.event.Event()

        def serve() -> None:
            connection = Connection(target)
            loop.joined()
            while not ended.is_set():
                loop.serve(connection)
            connection.close()

        greenlets = [gevent.spawn(serve) for _ in range(connections)]
        gevent.sleep(0)
        driver.restart()
        loop.run()
        gevent.joinall(greenlets, timeout=10, raise_error=True)
    return measurements
