"""The client library against a real TorchServe: workers, the server and the client itself are killed in mid-stream."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellstate import AsyncClient, Client, InvalidInput, Result, RetryEvent, RetryPolicy, Stream, Unauthenticated
from host.torchserve.launcher import TorchServe
from tests.support.http_client import until
from tests.support.served_models import Model, assert_close

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
KILLS = 20


@pytest.fixture(scope="module")
def server(lone_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """A server of this file's own, for it is killed."""
    server = TorchServe(tmp_path_factory.mktemp("client"), lone_store).start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(server: TorchServe) -> Iterator[Client]:
    with Client(server.url, server.first_key) as client:
        yield client


def check(stream: Stream, model: Model, inputs: list[list[float]]) -> None:
    """The session has consumed exactly the first inputs: its hidden states are those of the offline run."""
    assert stream.describe().step == stream.position
    found = stream.what_if(inputs[stream.position : stream.position + 1], returns=["h_n", "c_n"])
    expected = model.run(inputs[: stream.position + 1])
    assert_close(found.h_n, expected.h_n, f"h_n after step {stream.position + 1}")
    assert_close(found.c_n, expected.c_n, f"c_n after step {stream.position + 1}")


def test_every_action(client: Client, zoo: dict[str, Model], session: str) -> None:
    model, inputs = zoo["one"], zoo["one"].inputs(12, seed=1)
    window = client.predict("one/1.0", inputs, returns=["prediction", "output", "h_n", "c_n", "state"])
    assert_close(window.prediction, model.run(inputs).y[-1], "a window")
    with client.stream("one", session) as stream:
        stream.step(inputs[:10])
        forecast = stream.forecast(3, inputs[10:11], future=[[0.0, 1.0]] * 3).forecast
        assert_close(forecast, model.rollout(inputs[:11], [[0.0, 1.0]] * 3), "forecast")
        fork, moved = stream.fork(), client.import_session("one", stream.export())
        for each in (stream, fork, moved):
            assert_close(each.step(inputs[11:]).prediction, model.run(inputs).y[-1], each.id)
        results = client.batch([(stream, inputs[:1]), (fork, [[1.0]]), (moved, inputs[:1])])
        assert [type(result) for result in results] == [Result, InvalidInput, Result]
        assert [each.close().closed for each in (stream, fork, moved)] == [True] * 3


def test_a_token_that_is_no_key_is_refused(server: TorchServe) -> None:
    with Client(server.url, "no key") as client, pytest.raises(Unauthenticated, match="Token Authorization failed"):
        client.predict("one", [[1.0, 0.0, 1.0]])


def test_many_streams_run_side_by_side(server: TorchServe, zoo: dict[str, Model], session: str) -> None:
    model, inputs = zoo["one"], [zoo["one"].inputs(11, seed=i) for i in range(16)]

    async def feed(client: AsyncClient, number: int) -> Result:
        async with client.stream("one", f"{session}-{number}") as stream:
            for row in inputs[number][:10]:
                await stream.step([row])
            return await stream.step(inputs[number][10:])

    async def run() -> list[Result]:
        async with AsyncClient(server.url, server.first_key) as client:
            return await asyncio.gather(*(feed(client, number) for number in range(16)))

    for number, result in enumerate(asyncio.run(run())):
        assert result.session.step == 11
        assert_close(result.prediction, model.run(inputs[number]).y[-1], f"stream {number}")


def test_a_stream_survives_its_worker_and_then_the_whole_server(server: TorchServe, zoo: dict[str, Model], session: str) -> None:
    inputs, retries, stop = zoo["one"].inputs(5_000, seed=3), list[RetryEvent](), threading.Event()
    failed = threading.Event()

    def remember(event: RetryEvent) -> None:
        retries.append(event)
        failed.set()

    policy = RetryPolicy(deadline=120.0, on_retry=remember)
    with Client(server.url, server.first_key, policy=policy) as client, client.stream("one", session) as stream:

        def feed() -> None:
            for row in inputs[:-1]:
                stream.step([row])
                if stop.is_set():
                    return

        thread = threading.Thread(target=feed)
        thread.start()
        [pid] = server.worker_pids("one")
        os.kill(pid, signal.SIGKILL)
        assert failed.wait(60), "no request met the killed worker"
        reached = stream.position
        until(lambda: stream.position > reached + 5, "the stream to go on with another worker")
        failed.clear()
        server.kill()
        assert failed.wait(60), "no request met the killed server"
        server.start()
        stop.set()
        thread.join(120)
        assert not thread.is_alive()
        assert 0 < stream.position < len(inputs)
        check(stream, zoo["one"], inputs)


def test_a_client_that_is_killed_twenty_times_goes_on_where_the_session_is(
    server: TorchServe, client: Client, zoo: dict[str, Model], session: str, tmp_path: Path
) -> None:
    inputs, draw, reached = zoo["one"].inputs(5_000, seed=4), random.Random(4), 0
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    program = [sys.executable, "-m", "tests.support.streaming_program", server.url, str(server.first_key)]
    for _ in range(KILLS):
        command = [*program, "one", session, str(tmp_path / "inputs.json")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "client"}) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(draw.randint(3, 30))]
            process.kill()
            told += [int(line) for line in process.stdout.read().split()]
        assert told == list(range(told[0], told[0] + len(told)))
        assert told[0] - 1 in (reached, reached + 1), "the session is where the program left it, or one unanswered step further"
        reached = told[-1]
    with client.stream("one", session) as stream:
        assert stream.position in (reached, reached + 1)
        check(stream, zoo["one"], inputs)
