"""What the suite shares: tiny models exported for real, services over them, and a way to ask.

Every model goes through `export.build.build` and is read back out of its archive, unzipped as the host unzips it.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any runtime is imported: the machines that test have few cores

import functools
import inspect
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import orjson
import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import export.models
from export.build import CONFIG, Built, build
from export.errors import LiftError
from export.report import TOLERANCE
from export.writers import torch_export
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.inference.backends.base import Backend
from handlers.metrics import Telemetry
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.base import Store
from handlers.stores.memory import MemoryStore
from tests.support.in_process import InProcess
from tests.support.learned_model import Learned
from tests.support.side_by_side import SideBySide
from tests.support.store_kinds import DURABLE, KINDS, Kind
from tests.support.valkey_server import SHARED, Server, serving

torch.set_num_threads(1)
hypothesis.settings.register_profile("cellstate", deadline=None, database=None, print_blob=True, max_examples=40)
hypothesis.settings.load_profile("cellstate")

BACKENDS = ("onnxruntime", "torchscript")
FEATURES = ("flow", "hour", "rain")
# 3e38 is a float32, and infinite once normalised by these
SCALES: dict[str, Any] = {"mean": [3.0, 0.5, -1.0], "std": [0.5, 0.25, 0.5], "outputs": [0], "hidden_size": 8}
NUMERIC: dict[str, Any] = {"task": "forecast", "outputs": ["flow"], "features": list(FEATURES), "feedback": {"flow": "flow"}}
WHOLE = NUMERIC | {"task": "regress", "feedback": {}}


@dataclass(frozen=True)
class Spec:
    """A model to be made: its class, its arguments, its card."""

    maker: type[nn.Module]
    arguments: Mapping[str, Any]
    card: Mapping[str, Any]
    seed: int = 0
    name: str = ""
    version: str = "1.0"


Forecaster, TokenClassifier = export.models.Forecaster, export.models.TokenClassifier
METER = {"task": "forecast", "outputs": ["load"], "features": ["load"], "feedback": {"load": "load"}}
SPECS = {
    "two": Spec(Forecaster, SCALES, NUMERIC, seed=1),
    "retrained": Spec(Forecaster, SCALES, NUMERIC, seed=2, name="two", version="2.0"),
    "one": Spec(Forecaster, SCALES | {"mean": [3.0], "std": [2.0], "num_layers": 1}, METER, seed=3),
    "step": Spec(Forecaster, SCALES | {"per": "step"}, NUMERIC, seed=4),
    "projected": Spec(Forecaster, SCALES | {"proj_size": 5}, NUMERIC, seed=5),
    "learned": Spec(Learned, {"hidden_size": 8}, NUMERIC, seed=10),
    "bidirectional": Spec(Forecaster, SCALES | {"bidirectional": True}, NUMERIC, seed=6),
    "projected-bidirectional": Spec(Forecaster, SCALES | {"bidirectional": True, "proj_size": 5}, WHOLE, seed=7),
    "meter": Spec(Forecaster, SCALES | {"mean": [3.0], "std": [2.0], "hidden_size": 24}, METER, seed=11),
    "meter-2": Spec(Forecaster, SCALES | {"mean": [3.0], "std": [2.0], "hidden_size": 24}, METER, seed=12, name="meter", version="2.0"),
    "road": Spec(Forecaster, SCALES | {"hidden_size": 24}, NUMERIC, seed=14),
    "road-2": Spec(Forecaster, SCALES | {"hidden_size": 24}, NUMERIC, seed=13, name="road", version="2.0"),
    "words": Spec(
        TokenClassifier,
        {"vocabulary": 11, "classes": 3, "embedding_size": 4, "hidden_size": 8},
        {"task": "classify", "outputs": ["day", "night", "holiday"], "tokens": 11},
        seed=8,
    ),
}
VERSIONS = ("retrained", "meter", "meter-2", "road", "road-2")  # for tests of what happens when a model changes
MODELS = tuple(name for name in SPECS if name not in VERSIONS)
STREAMING = tuple(name for name in MODELS if "bidirectional" not in name)


@dataclass(frozen=True, eq=False)
class Exported:
    """One model, eager and exported."""

    model: nn.Module  # the user's class, unedited, in evaluation mode
    checkpoint: Path
    built: Built
    folder: Path  # the archive, unzipped
    signature: Signature

    @functools.cache  # noqa: B019  # lives as long as the session's models do
    def backend(self, kind: str) -> Backend:
        return open_backend(self.folder, self.signature, Settings(backend=kind, device="cpu"))

    def sequence(self, steps: int, seed: int = 0) -> Any:
        """`[T, F]` float32 in the data's units, or `[T]` int64."""
        random = np.random.default_rng(seed)
        if self.signature.tokens:
            return random.integers(0, self.signature.vocabulary, steps)
        mean, std = (getattr(self.model, name, torch.tensor(0.0 if name == "mean" else 1.0)).numpy() for name in ("mean", "std"))
        return random.normal(mean, std, (steps, len(self.signature.features))).astype(np.float32)


def write_checkpoint(folder: Path, model: nn.Module, card: Mapping[str, Any]) -> Path:
    """A checkpoint folder as a user would write it."""
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "weights.safetensors")
    (folder / "model.json").write_bytes(orjson.dumps(dict(card)))
    return folder


def left_out(*_: Any) -> None:
    raise LiftError("left out of all models but one: it takes longest, and no server runs it")


def build_runnable(checkpoint: Path, store: Path, config: Path = CONFIG) -> Built:
    """Build an archive with what servers run, and without the exported program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_export, "write_program", left_out)
        return build(checkpoint, store, config)


def export_model(place: Path, name: str) -> Exported:
    """Make, train not at all, export and unzip the model of that name."""
    return export_spec(place, name, SPECS[name])


def export_spec(place: Path, name: str, spec: Spec) -> Exported:
    """Make, train not at all, export and unzip a model."""
    torch.manual_seed(spec.seed)
    model = spec.maker(**spec.arguments).eval()
    head = {"name": spec.name or name, "version": spec.version, "factory": f"{inspect.getfile(spec.maker)}:{spec.maker.__name__}"}
    checkpoint = write_checkpoint(place / "checkpoint", model, head | {"arguments": spec.arguments} | dict(spec.card))
    built = build(checkpoint, place) if name == "two" else build_runnable(checkpoint, place)
    with zipfile.ZipFile(built.archive) as archive:
        archive.extractall(place / "unzipped")
    return Exported(model, checkpoint, built, place / "unzipped", Signature.load(place / "unzipped" / "signature.json"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide | None:
    """Share out the tests as `make test` does, with `-n 2 --dist loadfile`."""
    return SideBySide(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_keyboard_interrupt() -> None:
    """End what an interrupted process of `make test` started: pytest-xdist gives it 15 seconds, too few to stop every server in turn."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """`exported(name)`: the model of `SPECS`, built once in the session, when it is first asked for."""
    return functools.cache(lambda name: export_model(tmp_path_factory.mktemp(name), name))


@pytest.fixture(scope="session")
def two(exported: Callable[[str], Exported]) -> Exported:
    """2 layers, H=8, features flow, hour, rain; flow feeds back."""
    return exported("two")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that ask for it; its address is in the environment, for the processes that they start."""
    with serving(tmp_path_factory.mktemp("valkey")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(SHARED, server.url)
        yield server


def _ready(request: pytest.FixtureRequest) -> str:
    if request.param == "valkey":
        request.getfixturevalue("valkey")
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of store in turn."""
    return KINDS[_ready(request)]


@pytest.fixture(params=DURABLE)
def durable(request: pytest.FixtureRequest) -> str:
    """The name of a kind of store that outlives its handle."""
    return _ready(request)


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand. Later than any machine's own clock: a store that forgets by that one keeps all."""

    now: float = 4_000_000_000.0

    def __call__(self) -> float:
        return self.now


def make_service(
    model: Exported,
    backend: str = "onnxruntime",
    store: Store | None = None,
    clock: Callable[[], float] | None = None,
    telemetry: Telemetry | None = None,
    **settings: Any,
) -> InProcess:
    """A service as a worker has it, over the given store (a new one in memory) and clock (one that stands still)."""
    chosen = Settings(backend=backend, device="cpu", store="memory://", **settings)
    deployment = ServiceContext(
        model.backend(backend), model.signature, MemoryStore() if store is None else store, chosen, telemetry or Telemetry()
    )
    return InProcess(deployment, clock or Clock())


def ask(service: InProcess, *objects: Any) -> list[tuple[int, dict[str, Any]]]:
    """Send the objects (bytes go as they are) as the requests of one batch; status and decoded reply of each."""
    bodies = [item if isinstance(item, bytes) else orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY) for item in objects]
    outcomes = service.handle_batch(bodies)
    assert len(outcomes) == len(bodies)
    return [(outcome.status, orjson.loads(outcome.body)) for outcome in outcomes]


def answer(service: InProcess, item: Any) -> dict[str, Any]:
    """The reply to one request that must be served."""
    [(status, reply)] = ask(service, item)
    assert status == 200, reply
    return reply


def refusal(service: InProcess, item: Any) -> tuple[int, str, dict[str, Any]]:
    """Status, code and whole error of one request that must be refused."""
    [(status, reply)] = ask(service, item)
    assert status >= 400, f"expected an error, got {status}: {reply}"
    return status, reply["error"]["code"], reply["error"]


def difference(actual: Any, expected: Any) -> float:
    """The largest absolute difference over the largest absolute reference, or over 1 where that is smaller; infinite for another shape."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) if a.shape == b.shape else float("inf")


def assert_close(actual: Any, expected: Any, what: str, tolerance: float = TOLERANCE) -> None:
    """Within the tolerance that the exporter holds every artefact to."""
    found = difference(actual, expected)
    assert found <= tolerance, f"{what}: largest scaled difference {found:.2e}, allowed {tolerance:.0e}"
