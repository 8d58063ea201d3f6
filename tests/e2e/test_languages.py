"""Exactly once across protocols: each try at a step is in another one, while the worker is killed."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from tests.e2e.test_kill import HORIZON, strike
from tests.support.http_client import until
from tests.support.open_inference_client import read, request, texts
from tests.support.served_models import Model
from tests.support.streams import Stream, flowing, kill_worker

pytestmark = pytest.mark.e2e
TRY_AGAIN = (429, 500, 503, 507)
KILLS = 5
Answer = tuple[list[float], int, bool | None]  # prediction, step, replayed


def native(stream: Stream, sent: dict[str, Any]) -> tuple[str, bytes, dict[str, str]]:
    return f"/predictions/{stream.model.name}", json.dumps(sent).encode(), {}


def sequence(binary: bool, many: bool = False) -> Callable[[Stream, dict[str, Any]], tuple[str, bytes, dict[str, str]]]:
    """The Open Inference Protocol, with the session as a parameter or, of `many`, as a tensor."""

    def made(stream: Stream, sent: dict[str, Any]) -> tuple[str, bytes, dict[str, str]]:
        inputs = {name: np.array([sent[field]], np.float32) for name, field in (("x", "inputs"), ("future", "future"))}
        session, parameters = sent["session"], {"horizon": sent["horizon"]}
        if many:
            inputs |= {"session": texts(session["id"]), "step": np.array([session["step"]])}
        else:
            parameters |= {"sequence_id": session["id"], "step": session["step"]}
        body = request(binary, inputs=inputs, **parameters)
        return f"/v2/models/{stream.model.name}/infer", body.body, dict(body.headers)

    return made


LANGUAGES = (native, sequence(binary=False), sequence(binary=True), sequence(binary=True, many=True))


class Polyglot(Stream):
    """Every try at a step is in the next language; once it is answered it is sent again, in yet another."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._languages = itertools.cycle(LANGUAGES)
        self._http = httpx.Client(timeout=60)
        self.replays = 0

    def advance(self) -> None:
        sent = self.request()
        first, again = (until(lambda: self._try(sent), f"{self.id} to be answered") for _ in range(2))
        assert again[:2] == first[:2], "the same numbers, to the digit"
        assert again[2] in (True, None)
        self.replays += 1
        self.acknowledged(sent, {"prediction": first[0], "session": {"step": first[1]}})

    def _try(self, sent: dict[str, Any]) -> Answer | None:
        """One try; None where it is worth another."""
        path, body, headers = next(self._languages)(self, sent)
        try:
            response = self._http.post(f"{self.client.server.url}{path}", content=body, headers=headers | self.client.server.headers())
        except httpx.TransportError:
            self.unanswered += 1
            return None
        if response.status_code in TRY_AGAIN:
            self.unanswered += 1
            return None
        assert response.status_code == 200, response.text
        return self._answer(response, sent)

    def _answer(self, response: httpx.Response, sent: dict[str, Any]) -> Answer | None:
        if "predictions/" in str(response.url):
            reply = response.json()
            return np.float32(reply["prediction"]).tolist(), reply["session"]["step"], reply["session"]["replayed"]
        found = read(200, response.content, response.headers.get("Inference-Header-Content-Length"))
        if "status" not in found.outputs:
            return found.outputs["y"][0].tolist(), found.parameters["step"], found.parameters["replayed"]
        if found.outputs["status"][0] in TRY_AGAIN:
            return None
        assert found.outputs["status"][0] == 200, found.outputs["error"]
        return found.outputs["y"][0].tolist(), int(found.outputs["step"][0]), None

    def close(self) -> None:
        self._http.close()
        super().close()


def test_a_step_is_applied_once_in_whatever_languages_it_is_tried(served: TorchServe, zoo: dict[str, Model], session: str) -> None:
    streams = [Polyglot(served, zoo["one"], f"{session}-{i}", seed=80 + i, horizon=HORIZON) for i in range(4)]
    struck = 0
    with flowing(streams):
        while struck < KILLS:
            struck += strike(streams, lambda: kill_worker(served, "one"))
    for stream in streams:
        assert stream.replays > 0
        stream.check()
        stream.close()
