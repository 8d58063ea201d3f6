"""Three servers over one Valkey behind Envoy with TLS: whatever is restarted or deployed, clients lose nothing and see no error."""

import json
import shutil
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch

import export.models
from cellstate import CellstateError, Client, RetryEvent, RetryPolicy
from host.__main__ import main
from host.torchserve.launcher import TorchServe, serving
from tests.conftest import build_runnable
from tests.e2e.conftest import ONE_WORKER, configured
from tests.e2e.test_history import KEEP, chaos, judged, lasting
from tests.support import valkey_server as valkeys
from tests.support.envoy import proxying
from tests.support.http_client import until
from tests.support.served_models import Model, assert_close, forecaster, write_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")]
STREAMS, WINDOW = 4, 5


@dataclass(frozen=True)
class Fleet:
    """The servers, and the address and the certificate of the proxy before them."""

    servers: list[TorchServe]
    url: str
    certificate: Path

    @property
    def first_key(self) -> Path:
        return self.servers[0].first_key

    @property
    def store(self) -> Path:
        return self.servers[0].store

    def options(self) -> list[str]:
        """The `--server` of each server, for the command."""
        return [part for server in self.servers for part in ("--server", str(server.folder))]

    def http(self) -> httpx.Client:
        return httpx.Client(verify=ssl.create_default_context(cafile=str(self.certificate)))


@pytest.fixture(scope="module")
def fleet(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    place, archives = tmp_path_factory.mktemp("fleet"), tmp_path_factory.mktemp("fleet-store")
    shutil.copy(store / "two-1.0.mar", archives)
    with ExitStack() as stack:
        sessions = stack.enter_context(valkeys.serving(place, **valkeys.ALWAYS))
        environment = {"CELLSTATE_STORE": f"{sessions.url}/0", "CELLSTATE_KEEP_VERSIONS": str(KEEP)}
        options = {"environment": environment, "keys": place / "keys.json"}
        servers = [stack.enter_context(serving(place / name, archives, ports=lasting(), **options)) for name in "abc"]
        port = valkeys.free_port()
        certificate = stack.enter_context(proxying(place, port, [server.ports.inference for server in servers]))
        yield Fleet(servers, f"https://127.0.0.1:{port}", certificate)


@dataclass
class Load:
    """Streams of the client library that step, and windows that are predicted, until they are stopped; every answer is kept."""

    fleet: Fleet
    name: str  # that the ids of its streams begin with
    inputs: list[list[list[float]]]
    model: str = "two"
    answers: list[list[tuple[str, list[float]]]] = field(default_factory=lambda: [[] for _ in range(STREAMS)])
    windows: list[tuple[str, list[float]]] = field(default_factory=list)
    retries: list[RetryEvent] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """A client; its error is kept."""
        policy = RetryPolicy(on_retry=self.retries.append)
        try:
            with self.fleet.http() as http, Client(self.fleet.url, self.fleet.first_key, policy=policy, http=http) as client:
                yield client
        except (CellstateError, AssertionError) as e:
            self.errors.append(e)

    def predict(self) -> None:
        with self._client() as client:
            while not self.stopping.is_set():
                result = client.predict(self.model, self.inputs[0][:WINDOW])
                self.windows.append((result.model.version, result.prediction.tolist()))

    def step(self, number: int) -> None:
        with self._client() as client:
            stream = client.stream(self.model, f"{self.name}-{number}")
            for row in self.inputs[number]:
                result = stream.step([row])
                self.answers[number].append((result.model.version, result.prediction.tolist()))
                if self.stopping.is_set():
                    break
            assert stream.describe().step == len(self.answers[number])

    @property
    def steps(self) -> int:
        return sum(map(len, self.answers))

    def goes_on(self, steps: int = 20) -> None:
        """Wait until so many further steps have been answered."""
        until(lambda at=self.steps: self.errors or self.steps >= at + steps, "further steps")


@contextmanager
def streaming(fleet: Fleet, name: str, model: Model) -> Iterator[Load]:
    """Streams over the proxy while the block runs; none may fail."""
    running = Load(fleet, name, [model.inputs(20_000, seed=40 + number) for number in range(STREAMS)], model.name)
    threads = [threading.Thread(target=running.step, args=(number,)) for number in range(STREAMS)]
    threads.append(threading.Thread(target=running.predict))
    for thread in threads:
        thread.start()
    try:
        running.goes_on()
        yield running
    finally:
        running.stopping.set()
        for thread in threads:
            thread.join(90)
    assert running.errors == []


@contextmanager
def load(fleet: Fleet, name: str, model: Model) -> Iterator[Load]:
    """Streams over the proxy while the block runs; none may fail, and every answer must be the eager model's."""
    with streaming(fleet, name, model) as running:
        yield running
    for number, answers in enumerate(running.answers):
        expected = model.run(running.inputs[number][: len(answers)]).y
        assert_close([prediction for _, prediction in answers], expected, f"stream {number} over {len(answers)} steps")


def build_lean(model: Model, place: Path) -> Path:
    """The archive of a model with one worker."""
    config = configured(place / "one-worker.yaml", ONE_WORKER)
    return build_runnable(write_checkpoint(model, place / model.card["version"]), place / "built", config).archive


def retrained(place: Path) -> tuple[Model, Path]:
    """Version 2.0 of the model: other weights, and its archive."""
    model = forecaster("two", 22, num_layers=2)
    model = Model(dict(model.card) | {"version": "2.0"}, model.module)
    return model, build_lean(model, place)


def test_streams_cross_servers_at_each_step_and_a_rolling_restart_loses_nothing(
    fleet: Fleet, zoo: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(fleet.certificate))
    path = tmp_path / "history.jsonl"
    with chaos(path, [fleet], seed=104), load(fleet, "restarted", zoo["two"]) as running:
        for server in fleet.servers:
            assert server.stop()
            running.goes_on()
            server.start()
            running.goes_on()
    judged(path, fleet.store)


def forgetful(version: str, seed: int) -> Model:
    """A model whose gates are as PyTorch draws them, so that it remembers some thirty steps."""
    card = forecaster("river", seed, num_layers=2, hidden_size=32).card
    torch.manual_seed(seed)
    return Model(dict(card) | {"version": version}, export.models.Forecaster(**card["arguments"]).eval())


def test_live_streams_move_to_a_new_version_and_nothing_of_the_old_one_is_needed(fleet: Fleet, tmp_path: Path) -> None:
    """Those that are stepped at their next step, the others when the old version is retired; each is the offline run of the new model."""
    one, two = forgetful("1.0", 31), forgetful("2.0", 32)
    first, second = (build_lean(model, tmp_path) for model in (one, two))
    assert main(["deploy", str(first), *fleet.options()]) == 0
    idle = two.inputs(80, seed=7)
    with fleet.http() as http, Client(fleet.url, fleet.first_key, http=http) as client:
        stream = client.stream("river", "idle")
        stream.step(idle[:79])
        with streaming(fleet, "moved", one) as running:
            running.goes_on(200)
            assert main(["deploy", str(second), *fleet.options()]) == 0
            running.goes_on(100)
            assert main(["retire", "river:1.0", "--drain", "30", *fleet.options()]) == 0
            running.goes_on(100)
        assert_close(stream.step(idle[79:]).prediction.tolist(), two.whole(idle), "the stream that stood still")
    assert running.retries == []
    for number, answers in enumerate(running.answers):
        versions = [version for version, _ in answers]
        assert set(versions) == {"1.0", "2.0"}
        assert versions == sorted(versions), "none goes back"
        expected = {model.card["version"]: model.run(running.inputs[number][: len(answers)]).y for model in (one, two)}
        for at, (version, prediction) in enumerate(answers):
            assert_close(prediction, expected[version][at], f"stream {number}, step {at} at version {version}")


def test_a_version_is_deployed_rolled_back_and_retired_under_load(
    fleet: Fleet, zoo: dict[str, Model], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two, archive = retrained(tmp_path)
    broken = tmp_path / "broken.mar"
    broken.write_bytes(archive.read_bytes()[:10_000])
    inputs = two.inputs(3, seed=1)

    def default() -> Counter[str]:
        """Which version answers a request without one, by server."""
        answers = [httpx.post(f"{s.url}/predictions/two", json={"inputs": inputs}, headers=s.headers(), timeout=30) for s in fleet.servers]
        return Counter(answer.json()["model"]["version"] for answer in answers)

    with load(fleet, "deployed", zoo["two"]) as running:
        assert main(["deploy", str(broken), *fleet.options()]) == 2
        assert "cannot be read as an archive" in capsys.readouterr().err
        assert main(["deploy", str(archive), *fleet.options()]) == 0, capsys.readouterr().err
        assert default() == {"2.0": 3}
        running.goes_on()
        assert {version for answers in running.answers for version, _ in answers[-1:]} == {"1.0"}, "live streams stay where their state is"
        assert main(["rollback", "two", *fleet.options()]) == 0
        assert default() == {"1.0": 3}
        assert main(["deploy", "two:2.0", *fleet.options()]) == 0
        with fleet.http() as http, Client(fleet.url, fleet.first_key, http=http) as client:
            new = client.stream("two", "begun-later")
            results = [new.step([row]) for row in inputs]
            assert {result.model.version for result in results} == {"2.0"}
            assert_close(results[-1].prediction.tolist(), two.whole(inputs), "the new version")
        assert main(["retire", "two:1.0", *fleet.options()]) == 2
        assert "live sessions have the state of two/1.0" in capsys.readouterr().err
    assert running.retries == [], "no request failed"
    for version, prediction in running.windows:
        expected = {"1.0": zoo["two"], "2.0": two}[version].whole(running.inputs[0][:WINDOW])
        assert_close(prediction, expected, f"a window at version {version}")
    assert {version for version, _ in running.windows} == {"1.0", "2.0"}
    with fleet.http() as http, Client(fleet.url, fleet.first_key, http=http) as client:
        for number in range(STREAMS):
            client.stream("two", f"deployed-{number}", create=False).close()
    assert main(["retire", "two:1.0", "--force", *fleet.options()]) == 0
    server = fleet.servers[0]
    assert server.stop()
    with serving(server.folder, fleet.store, ports=server.ports, keys=server.keys, environment=server.environment) as again:
        assert [archive.address for archive in again.archives if archive.name == "two"] == ["two/2.0"], (
            "what was retired is not served after a restart"
        )
        capsys.readouterr()
        assert main(["models", "--json", *fleet.options()]) == 0
    models = json.loads(capsys.readouterr().out)
    assert {json.dumps([[m["version"], m["health"]] for m in versions if m["model"] == "two"]) for versions in models.values()} == {
        '[["2.0", "ok"], ["1.0", "retired"]]'
    }
