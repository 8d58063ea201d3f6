"""Stopping: whoever is inside is answered, whoever comes later is told, and no step is lost or applied unheard."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import error_code, until
from tests.support.served_models import Json, Model
from tests.support.streams import Stream

pytestmark = pytest.mark.e2e
HORIZON = 150  # steps of forecast with every request: each takes a while, and is not so long that it must take turns


class Caller(Stream):
    """A stream that never sends a step twice. It stops at the first refusal; a `stubborn` one goes on until nobody listens."""

    def __init__(self, server: TorchServe, model: Model, id: str, seed: int, stubborn: bool) -> None:
        super().__init__(server, model, id, seed, horizon=HORIZON)
        self.stubborn, self.end = stubborn, ""
        self.pending: dict[str, Json] | None = None  # sent, and neither answered nor refused

    def call(self) -> None:
        while self.end in ("", "draining"):
            request = self.pending = self.request()
            try:
                self.end = self.heard(request, self.client.send(**request))
            except httpx.ConnectError:
                self.end, self.pending = "not connected", None
            except httpx.TransportError as e:
                self.end = f"cut off: {e!r}"
            if self.end == "draining" and not self.stubborn:
                return

    def heard(self, request: dict[str, Json], response: httpx.Response) -> str:
        """Note the answer; how the call ended, or nothing when it may go on."""
        if response.status_code == 200:
            self.acknowledged(request, response.json())
        elif (response.status_code, error_code(response)) != (503, "draining"):
            return f"{response.status_code} {response.text[:200]}"
        self.pending = None
        return "" if response.status_code == 200 else "draining"

    def settle(self) -> None:
        """On the server that was started again: what was acknowledged was applied, and no more than the one step left unanswered."""
        found = self.client.position(self.id)
        if self.pending is None:
            assert found == self.position, f"{self.id}: at step {found}, acknowledged {self.position}"
            return
        whole = self.position + len(self.pending["inputs"])
        assert found in (self.position, whole), f"{self.id}: at step {found}, acknowledged {self.position}, sent up to {whole}"
        answer = self.client.ask(**self.pending)
        assert answer["session"]["replayed"] == (found == whole)
        self.acknowledged(self.pending, answer)


def call_while_stopping(server: TorchServe, callers: Sequence[Caller]) -> bool:
    with ThreadPoolExecutor(len(callers)) as pool:
        calls = [pool.submit(caller.call) for caller in callers]
        try:
            until(lambda: all(caller.position > 10 for caller in callers), "every caller to be at work")
        finally:
            drained = server.stop()
        for call in calls:
            call.result()
    return drained


def test_a_stop_answers_who_is_inside_turns_the_rest_away_and_loses_nothing(
    pair_store: Path, zoo: dict[str, Model], session: str, tmp_path: Path
) -> None:
    server = TorchServe(tmp_path, pair_store).start()
    callers = [Caller(server, zoo["two"], f"{session}-{i}", seed=130 + i, stubborn=i >= 6) for i in range(8)]
    try:
        assert call_while_stopping(server, callers), "requests were still inside when the time to drain was over"
        assert [caller.end for caller in callers[:6]] == ["draining"] * 6
        ends: list[Any] = [caller.end for caller in callers[6:]]
        assert all(end.startswith(("not connected", "cut off")) for end in ends), ends
        server.start()
        for caller in callers:
            caller.settle()
            caller.advance()
            caller.check()
    finally:
        server.stop()
        for caller in callers:
            caller.close()
