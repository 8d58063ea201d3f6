"""Sessions fed by clients that send each step again until it is answered, and compared with the offline run at the end."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

import cellstate
from host.torchserve.launcher import TorchServe
from tests.support.http_client import Client, until
from tests.support.served_models import Json, Model, assert_close


class Stream:
    """One session fed through the client library, which sends the same step again until it is answered, and everything it was told."""

    LENGTH = 20_000  # steps prepared

    def __init__(self, server: TorchServe, model: Model, id: str, seed: int, horizon: int = 0) -> None:
        self.model, self.id = model, id
        self.client = Client(server, model.name)
        policy = cellstate.RetryPolicy(deadline=120.0, max_pause=0.5, on_retry=self._count)
        self._library = cellstate.Client(server.url, server.first_key, policy=policy)
        self.unanswered = 0  # tries that brought no answer, or one that promised nothing
        self.position = 0  # steps acknowledged
        self.inputs = model.inputs(self.LENGTH, seed)
        self._rng = np.random.default_rng(seed)
        self._told: list[tuple[int, list[float]]] = []  # position, prediction
        self._more = {"horizon": horizon, "future": [[0.0, 1.0]] * horizon} if horizon else {}  # keeps the worker busy for a while

    def request(self) -> dict[str, Json]:
        """The next request: some steps from where the stream is."""
        steps = self.inputs[self.position : self.position + int(self._rng.integers(1, 4))]
        return {"inputs": steps, "session": {"id": self.id, "step": self.position}, **self._more}

    def advance(self) -> None:
        """Send the next steps until they are answered."""
        request = self.request()
        stream = self._library.stream(self.model.name, self.id, position=self.position)
        self.acknowledged(request, dict(stream.step(request["inputs"], **self._more).document))

    def _count(self, event: cellstate.RetryEvent) -> None:
        self.unanswered += 1

    def acknowledged(self, request: dict[str, Json], answer: dict[str, Any]) -> None:
        self.position += len(request["inputs"])
        assert answer["session"]["step"] == self.position, f"{self.id}: answered {answer['session']}, expected step {self.position}"
        self._told.append((self.position, answer["prediction"]))

    def run(self, stop: threading.Event) -> None:
        """Feed until told to stop."""
        while not stop.is_set() and self.position < self.LENGTH - 4:
            self.advance()

    def check(self) -> None:
        """All that was told equals the offline run over the same steps, and so does the state; no step was lost or repeated."""
        assert self.client.position(self.id) == self.position
        reference = self.model.run(self.inputs[: self.position])
        ends = [position - 1 for position, _ in self._told]
        assert_close([told for _, told in self._told], reference.y[ends], f"{self.id}: {len(ends)} predictions")
        following = self.inputs[self.position : self.position + 1]
        after = self.model.run(following, reference.state)
        found = self.client.ask(inputs=following, session={"id": self.id}, commit=False, **{"return": ["h_n", "c_n"]})
        assert_close(found["h_n"], after.h_n, f"{self.id}: h_n after step {self.position + 1}")
        assert_close(found["c_n"], after.c_n, f"{self.id}: c_n after step {self.position + 1}")

    def close(self) -> None:
        self._library.close()
        self.client.__exit__(None, None, None)


@contextmanager
def flowing(streams: Sequence[Stream]) -> Iterator[None]:
    """Every stream is fed by its own thread while the block runs; none may be left unanswered at its end."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(streams)) as pool:
        running = [pool.submit(stream.run, stop) for stream in streams]
        try:
            yield
        finally:
            stop.set()
        for result in running:
            result.result()


def all_advance(streams: Sequence[Stream], steps: int) -> None:
    """Wait until every stream has consumed some more steps."""
    goals = [stream.position + steps for stream in streams]
    until(lambda: all(s.position >= goal for s, goal in zip(streams, goals, strict=True)), f"every stream to advance by {steps} steps")


def kill_worker(server: TorchServe, model: str) -> None:
    """SIGKILL to the model's worker, of this server's own group, once it is serving."""

    def ready() -> list[int]:
        return [int(worker["pid"]) for worker in server.describe(model)["workers"] if worker["status"] == "READY"]

    pid = until(ready, f"a worker of {model}")[0]
    assert server.process is not None
    assert os.getpgid(pid) == server.process.pid
    os.kill(pid, signal.SIGKILL)
