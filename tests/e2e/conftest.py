"""The servers that most tests here share, each started once: real archives, real TorchServe, a folder and ports of its own."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from export.build import CONFIG, build
from host.torchserve.launcher import TorchServe, serving
from tests.conftest import build_runnable
from tests.support.http_client import Client, Connect
from tests.support.served_models import Model, classifier, forecaster, write_checkpoint

STATE_KEY = "a key of these tests"
ONE_WORKER = {"minWorkers: 2": "minWorkers: 1", "maxWorkers: 2": "maxWorkers: 1"}  # starts sooner
FLEETING = {**ONE_WORKER, "cellstate: {}": f'cellstate: {{session_ttl: 1.0, tombstone_ttl: 600.0, state_key: "{STATE_KEY}"}}'}


@pytest.fixture(scope="session")
def zoo() -> dict[str, Model]:
    """Every model under test, by name. `fleeting` has the weights of `one`."""
    models = [
        forecaster("one", 1, num_layers=1),
        forecaster("two", 2, num_layers=2),
        forecaster("both-ways", 3, feedback=False, num_layers=2, bidirectional=True),
        forecaster("projected", 4, num_layers=2, proj_size=5),
        classifier("words", 5),
        forecaster("fleeting", 1, num_layers=1),
    ]
    return {model.name: model for model in models}


@pytest.fixture(scope="session")
def checkpoints(zoo: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(model, folder / name) for name, model in zoo.items()}


@pytest.fixture(scope="session")
def store(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One archive of every model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("store")
    one_worker, fleeting = configured(folder / "one-worker.yaml", ONE_WORKER), configured(folder / "fleeting.yaml", FLEETING)
    for name, checkpoint in checkpoints.items():
        make = build if name == "one" else build_runnable
        make(checkpoint, folder, fleeting if name == "fleeting" else one_worker)
    return folder


@pytest.fixture(scope="session")
def pair_store(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two-layer model alone, for two workers as shipped."""
    folder = tmp_path_factory.mktemp("pair-store")
    build_runnable(checkpoints["two"], folder)
    return folder


@pytest.fixture(scope="session")
def lone_store(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one-layer model alone: the quickest server to start."""
    folder = tmp_path_factory.mktemp("lone-store")
    shutil.copy(store / "one-1.0.mar", folder)
    return folder


def configured(path: Path, changes: dict[str, str]) -> Path:
    """The shipped model configuration with some lines replaced."""
    text = CONFIG.read_text()
    for old, new in changes.items():
        assert old in text, f"{CONFIG.name} has no {old!r}"
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """Every model, one worker each, ONNX Runtime."""
    with serving(tmp_path_factory.mktemp("served"), store) as server:
        yield server


@pytest.fixture(scope="session")
def scripted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """Some of the models, served through TorchScript."""
    folder = tmp_path_factory.mktemp("scripted-store")
    for name in ("two", "both-ways", "projected", "words"):
        shutil.copy(store / f"{name}-1.0.mar", folder)
    with serving(tmp_path_factory.mktemp("scripted"), folder, environment={"CELLSTATE_BACKEND": "torchscript"}) as server:
        yield server


@pytest.fixture(scope="session")
def pair(pair_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServe]:
    """The two-layer model in two workers that share one store of sessions."""
    with serving(tmp_path_factory.mktemp("pair"), pair_store) as server:
        assert len(set(server.worker_pids("two"))) == 2
        yield server


@pytest.fixture(params=["served", "scripted"], ids=["onnxruntime", "torchscript"])
def either(request: pytest.FixtureRequest) -> TorchServe:
    """Each backend in turn."""
    server: TorchServe = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A caller of a server's model, closed after the test."""
    with ExitStack() as stack:
        yield lambda server, model: stack.enter_context(Client(server, model))


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session id of this test's own."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)
