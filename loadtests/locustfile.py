"""The users of a load test. Each checks every answer that it gets; a wrong one is a failure in Locust's table.

`python -m loadtests` runs it with everything it needs; `locust -f loadtests/locustfile.py --expected FILE --host URL` does, too, with the
token in LOADTEST_TOKEN. It knows HTTP and Locust; what a right answer is, is in `expected`.
"""

import random
import uuid
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import orjson
from locust import FastHttpUser, constant, events
from locust.env import Environment

from loadtests.load.expected import CLOSE, PREDICT, RETRY, Expected, StreamRequest, body, script, wrong_session
from loadtests.offline import WINDOW


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust is not followed
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--expected", required=True, help="sequences and offline answers, as `loadtests.offline` made them")
    parser.add_argument("--totals", default="", help="where to write what was counted, as JSON")
    parser.add_argument("--token", env_var="LOADTEST_TOKEN", is_secret=True, default="", help="bearer token")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _load_expected(environment: Environment, **_: Any) -> None:
    environment.expected = Expected.load(Path(environment.parsed_options.expected))
    if not environment.expected.streaming:
        environment.user_classes = [PredictUser]


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _write_totals(environment: Environment, **_: Any) -> None:
    total = environment.stats.total
    document = {
        "requests": {entry.name: entry.num_requests for entry in environment.stats.entries.values()},
        "failures": total.num_failures,
        "per_second": total.total_rps,
        "median_ms": total.median_response_time,
        "p99_ms": total.get_response_time_percentile(0.99),
        "largest_difference": environment.expected.largest,
    }
    if environment.parsed_options.totals:
        Path(environment.parsed_options.totals).write_bytes(orjson.dumps(document))


class CheckingUser(FastHttpUser):  # type: ignore[misc]
    """Asks without a pause. What it sends and what must come back is its subclasses' affair."""

    abstract = True
    wait_time = constant(0)
    network_timeout = 30.0

    def on_start(self) -> None:
        self.expected: Expected = self.environment.expected
        self._path = f"/predictions/{self.expected.model}"
        self._headers = {"Authorization": f"Bearer {self.environment.parsed_options.token}", "Content-Type": "application/json"}

    def post(self, kind: str, request: Mapping[str, Any]) -> Any:
        """Locust's response for a `with` block: mark it through `judge`."""
        return self.client.post(self._path, data=orjson.dumps(request), headers=self._headers, name=kind, catch_response=True)


def judge(response: Any, wrong: str) -> None:
    """Record an answer in Locust's table, as a failure when something is wrong with it."""
    if wrong:
        response.failure(wrong)
    else:
        response.success()


def parsed(response: Any) -> tuple[dict[str, Any], str]:
    """The answer, and what is wrong with it as an answer; empty when nothing is."""
    if response.status_code != 200:
        reason = response.error if response.status_code == 0 else bytes(response.content or b"")[:200].decode(errors="replace")
        return {}, f"status {response.status_code}: {reason}"
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError as e:
        return {}, f"not JSON: {e}"
    return (answer, "") if isinstance(answer, dict) else ({}, "not a JSON object")


class PredictUser(CheckingUser):
    """One window, one request, one prediction."""

    weight = 1

    def predict(self) -> None:
        row = random.randrange(len(self.expected.x))
        with self.post(PREDICT, {"inputs": self.expected.x[row, :WINDOW].tolist()}) as response:
            answer, wrong = parsed(response)
            judge(response, wrong or self.expected.wrong_window(row, answer))

    tasks: ClassVar = [predict]


class StreamUser(CheckingUser):
    """One session after another: opened at step 0, fed step by step, now and then in a retry or several steps at once, closed."""

    weight = 3

    def stream(self) -> None:
        row, id = random.randrange(len(self.expected.x)), f"load-{uuid.uuid4().hex}"
        last: dict[str, Any] = {}
        for ask in script(self.expected.x.shape[1], random.Random(id)):
            with self.post(ask.kind, body(self.expected.x[row], ask, id)) as response:
                answer, wrong = parsed(response)
                judge(response, wrong or self._wrong(row, ask, id, answer, last))
            if wrong:
                return  # nobody knows where the session is now
            last = answer

    def _wrong(self, row: int, ask: StreamRequest, id: str, answer: Mapping[str, Any], last: Mapping[str, Any]) -> str:
        if wrong := wrong_session(answer, ask, id):
            return wrong
        if ask.kind == RETRY and answer.get("prediction") != last.get("prediction"):
            return f"sequence {row}, steps {ask.start} to {ask.stop}: the retry was answered otherwise than the step"
        return "" if ask.kind == CLOSE else self.expected.wrong_step(row, ask, answer)

    tasks: ClassVar = [stream]
