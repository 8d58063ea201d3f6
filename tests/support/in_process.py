"""A service without a server: bodies in, responses out, through the same front end as a worker's."""

import time
from collections.abc import Callable, Sequence

from handlers.clock import ClockGuard
from handlers.engine.context import ServiceContext
from handlers.engine.service import Service
from handlers.protocols.base import HttpRequest, HttpResponse
from handlers.protocols.frontend import Frontend


class InProcess:
    """The front end over a new service. It does not wait between attempts at a contended session."""

    def __init__(self, context: ServiceContext, clock: Callable[[], float] = time.time) -> None:
        latest = clock.latest if isinstance(clock, ClockGuard) else None  # as a worker does
        self.frontend = Frontend(Service(context, clock, sleep=lambda seconds: None, latest=latest))

    def handle_batch(self, bodies: Sequence[bytes]) -> list[HttpResponse]:
        """Answer the bodies as the requests of one batch."""
        return self.frontend.handle_batch([HttpRequest(body) for body in bodies])
