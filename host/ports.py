"""Where a server listens."""

import contextlib
import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports. gRPC has ports too, whether or not one uses it."""

    inference: int
    management: int
    metrics: int
    grpc: tuple[int, int]

    @classmethod
    def free(cls, inference: int = 0, metrics: int = 0) -> "Ports":
        """Ports that are free now; `inference` and `metrics` fix theirs when they are not 0."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
            for s in sockets:
                s.bind(("127.0.0.1", 0))
            first, second, management, *grpc = [int(s.getsockname()[1]) for s in sockets]
        return cls(inference or first, management, metrics or second, (grpc[0], grpc[1]))


def near(address: str) -> str:
    """How this machine reaches an address that a server listens on."""
    return "127.0.0.1" if address == "0.0.0.0" else address
