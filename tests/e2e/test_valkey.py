"""Two servers as on two machines, over one Valkey: one stream, whichever of them a request reaches, and whatever is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

import host
from host.torchserve.launcher import serving
from tests.support import valkey_server as valkeys
from tests.support.http_client import Client, error_code, until
from tests.support.served_models import assert_close
from tests.support.streams import Stream, all_advance, flowing, kill_worker

pytestmark = pytest.mark.e2e
STEPS = 24
ROOT = Path(host.__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with valkeys.serving(tmp_path_factory.mktemp("valkey"), requirepass="sword@fish", **valkeys.ALWAYS) as server:
        yield server


@pytest.fixture(scope="module")
def servers(shared, lone_store, tmp_path_factory):
    environment = {"CELLSTATE_STORE": f"valkey://:sword%40fish@127.0.0.1:{shared.port}/0"}
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    with serving(folders[0], lone_store, environment=environment) as one, serving(folders[1], lone_store, environment=environment) as other:
        yield one, other


def test_a_stream_goes_on_over_both_servers_and_over_the_loss_of_the_store(zoo, servers, shared, session):
    model = zoo["one"]
    x = model.inputs(STEPS, seed=7)
    with Client(servers[0], "one") as one, Client(servers[1], "one") as other:
        clients = (one, other)
        for n in range(STEPS):
            request = {"inputs": [x[n]], "session": {"id": session, "step": n}}
            if n == STEPS // 2:
                shared.kill()
                for client in clients:
                    answer = client.send(**request)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
                    assert client.send(inputs=[x[n]]).status_code == 200, "who needs no session is served"
                shared.start()
            answer = clients[n % 2].send(**request)
            assert answer.status_code == 200, answer.text
            assert answer.json()["session"]["step"] == n + 1
        again = clients[STEPS % 2].send(**request).json()
        assert again["session"]["replayed"]
    assert_close(again["prediction"], model.run(x).y[-1], f"prediction after {STEPS} steps")


def health(folder):
    done = subprocess.run(
        [sys.executable, "-m", "host", "health", "--folder", folder], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.strip()


def is_refused(client, request):
    """Whether the store is said to be away; a request that TorchServe gave to a worker just killed may get no answer at all."""
    with suppress(httpx.ReadTimeout):
        return error_code(client.send(**request)) == "store_unavailable"
    return False


def seconds_until_served(client, request, at_most=30.0):
    """How long the step is not answered with 200; until then it must be answered, with 503."""
    began = time.monotonic()
    while (answer := client.send(**request)).status_code != 200:
        assert error_code(answer) == "store_unavailable", answer.text
        assert time.monotonic() - began < at_most
    return time.monotonic() - began


def test_a_server_starts_and_a_dead_worker_starts_again_without_the_store_and_both_serve_as_soon_as_it_is_there(
    zoo, lone_store, tmp_path, session
):
    """The store is away at the start, and later goes away together with the worker."""
    x = zoo["one"].inputs(2, seed=8)
    store = valkeys.Server(tmp_path, **valkeys.ALWAYS)
    environment = {"CELLSTATE_STORE": store.url, "CELLSTATE_METRICS_INTERVAL": "0.2"}
    try:
        with serving(tmp_path / "run", lone_store, environment=environment) as server, Client(server, "one") as client:
            assert health(server.folder) == (1, "not healthy: one/1.0 (store_unavailable)")
            until(lambda: "cellstate_store_available{" in metrics(server) and available(server) == 0.0, "a metric that says it")
            store.start()
            assert seconds_until_served(client, {"inputs": x[:1], "session": {"id": session, "step": 0}}) < 5
            assert health(server.folder) == (0, "healthy")
            store.kill()
            [pid] = server.worker_pids("one")
            os.kill(pid, signal.SIGKILL)
            until(lambda: is_refused(client, next_step(x, session)), "an answer of the next worker", 150)
            assert server.worker_pids("one") != [pid]
            assert client.send(inputs=x).status_code == 200, "who needs no session is served"
            store.start()
            assert seconds_until_served(client, next_step(x, session)) < 5
            until(lambda: available(server) == 1.0, "a metric that says that it is back")
    finally:
        store.kill()


def test_streams_lose_and_repeat_no_step_when_the_store_goes_away_again_and_again_and_their_worker_with_it(
    zoo, lone_store, tmp_path, session
):
    with (
        valkeys.serving(tmp_path, **valkeys.ALWAYS) as store,
        serving(tmp_path / "run", lone_store, environment={"CELLSTATE_STORE": store.url}) as server,
    ):
        streams = [Stream(server, zoo["one"], f"{session[:40]}-{n}", seed=90 + n) for n in range(4)]
        with flowing(streams):
            for worker_too in (False, True, False, True):
                all_advance(streams, 5)
                store.kill()
                if worker_too:
                    kill_worker(server, "one")
                before = [stream.unanswered for stream in streams]
                until(lambda seen=before: all(s.unanswered > n for s, n in zip(streams, seen, strict=True)), "every stream to be refused")
                store.start()
            all_advance(streams, 5)
        for stream in streams:
            stream.check()
            stream.close()


def next_step(x, session):
    return {"inputs": x[1:], "session": {"id": session, "step": 1}}


def metrics(server):
    return httpx.get(server.metrics_url, headers=server.headers()).text


def available(server):
    """The value of the gauge; TorchServe keeps the last one that a worker told it."""
    return float(re.search(r"^cellstate_store_available\{.*\} (\S+)$", metrics(server), re.MULTILINE)[1])


def test_the_password_is_in_no_log(servers):
    for server in servers:
        log = server.log.read_text()
        assert '"store": "valkey://:***@127.0.0.1:' in log
        assert "sword" not in log
