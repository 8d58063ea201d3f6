"""Where a server listens, and the one error of starting one."""

import contextlib
import socket
import time
from dataclasses import dataclass

LINGER = 3.0  # seconds for which a server that was killed may still hold its ports


class HostError(RuntimeError):
    """The server did not start, or is not what it should be; the text ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports. gRPC has ports too, whether or not one uses it."""

    inference: int
    management: int
    metrics: int
    grpc: tuple[int, int]

    def refuse_taken(self) -> None:
        """Raises HostError where somebody listens already, and goes on to: the host itself would end with a page of its insides."""
        end = time.monotonic() + LINGER
        for port in (self.inference, self.management, self.metrics):
            while _listens(port):
                if time.monotonic() > end:
                    raise HostError(f"port {port} is taken: choose another, or 0 for a free one")
                time.sleep(0.05)

    @classmethod
    def free(cls, inference: int = 0, metrics: int = 0) -> "Ports":
        """Ports that are free now; `inference` and `metrics` fix theirs when they are not 0."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
            for s in sockets:
                s.bind(("127.0.0.1", 0))
            first, second, management, *grpc = [int(s.getsockname()[1]) for s in sockets]
        return cls(inference or first, management, metrics or second, (grpc[0], grpc[1]))


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0 and s.getsockname() != s.getpeername()  # a socket can reach itself


def near(address: str) -> str:
    """How this machine reaches an address that a server listens on."""
    return "127.0.0.1" if address == "0.0.0.0" else address
