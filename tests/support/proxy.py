"""A proxy before a server that breaks a connection where a test says, as a network does."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


class Cutter:
    """Passes everything on until `when` is in what a client sends; then does `how` once, and ends that connection.

    `nothing` arrives; the first command arrives and is carried out (`half`); `all` is carried out and the replies are lost.
    """

    def __init__(self, server: int, wrap: Callable[[socket.socket], socket.socket] = lambda s: s) -> None:
        self._server, self._wrap = server, wrap
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.when, self.how, self.cuts = b"", "", 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def cut(self, when: bytes, how: str) -> None:
        self.when, self.how = when, how

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                break
            threads.append(threading.Thread(target=self._serve, args=(client,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, plain: socket.socket) -> None:
        with ExitStack() as stack:
            stack.enter_context(plain)
            try:
                client = stack.enter_context(self._wrap(plain))
                server = stack.enter_context(socket.create_connection(("127.0.0.1", self._server)))
                while self._pass_on(client, server):
                    pass
            except OSError:  # either end is gone
                return

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Move what has come; False when the connection is over."""
        ready, _, _ = select.select([client, server], [], [])
        if server in ready:
            data = server.recv(1 << 20)
            client.sendall(data)
            return bool(data)
        data = client.recv(1 << 20)
        if self.when and self.when in data:
            self._break(data, server)
            return False
        server.sendall(data)
        return bool(data)

    def _break(self, data: bytes, server: socket.socket) -> None:
        second = data.find(self.when, data.index(self.when) + 1)
        arrives = {"nothing": b"", "half": data[: data.rindex(b"*", 0, second)] if second > 0 else data, "all": data}[self.how]
        if arrives:
            server.sendall(arrives)
            server.recv(1 << 20)  # it has been carried out
        self.when, self.cuts = b"", self.cuts + 1


@contextmanager
def cutting(server: int, wrap: Callable[[socket.socket], socket.socket] = lambda s: s) -> Iterator[Cutter]:
    """A proxy before the server's port. Clients must be closed before it is left."""
    cutter = Cutter(server, wrap)
    try:
        yield cutter
    finally:
        cutter.close()
