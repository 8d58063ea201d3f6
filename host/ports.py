"""The ports of a server, and the error of a server that does not start."""

import contextlib
import ipaddress
import socket
import time
from dataclasses import dataclass

LINGER = 3.0  # seconds for which a server that was killed may still hold its ports


class HostError(RuntimeError):
    """The server did not start, or has ended; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports. TorchServe opens those of gRPC whether or not they are used."""

    inference: int
    metrics: int
    grpc: tuple[int, int]

    def refuse_taken(self) -> None:
        """Raise HostError for a port on which another process goes on listening: TorchServe would end with a stack trace."""
        end = time.monotonic() + LINGER
        for port in (self.inference, self.metrics):
            while _listens(port):
                if time.monotonic() > end:
                    raise HostError(f"port {port} is taken: choose another, or 0 for a free one")
                time.sleep(0.05)

    @classmethod
    def free(cls, inference: int = 0, metrics: int = 0) -> "Ports":
        """Return ports that are free now; `inference` and `metrics` are taken as given unless they are 0."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
            for s in sockets:
                s.bind(("127.0.0.1", 0))
            first, second, *grpc = [int(s.getsockname()[1]) for s in sockets]
        return cls(inference or first, metrics or second, (grpc[0], grpc[1]))


def _listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0 and s.getsockname() != s.getpeername()  # a socket can reach itself


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches `address`, an IP address or a name."""
    try:
        found = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(address, None)}
    except OSError:
        return False
    return bool(found) and all(ip.is_loopback for ip in found)


def reachable(address: str) -> str:
    """Return the address at which this machine reaches a server that listens on `address`."""
    return "127.0.0.1" if address == "0.0.0.0" else address
