"""How the peers are started and asked. Each runs in an environment of its own: `.peers/NAME`, which `make peers` makes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).parents[2] / ".peers"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server. `command` takes the folder of its environment's programs, a port and a folder for its settings."""

    name: str
    command: Callable[[Path, int, Path], Sequence[str]]
    path: str
    form: Callable[[Any], Any] = lambda window: {"inputs": window}  # of the body with one window
    prediction: Callable[[Any], list[float]] = lambda answer: list(answer["prediction"])


def _litserve(programs: Path, port: int, folder: Path) -> Sequence[str]:
    return [str(programs / "python"), "-m", "benchmarks.peers.litserve_app", str(port)]


def _bentoml(programs: Path, port: int, folder: Path) -> Sequence[str]:
    return [str(programs / "bentoml"), "serve", "benchmarks.peers.bentoml_app:Windows", "--port", str(port), "--host", "127.0.0.1"]


def _mlserver(programs: Path, port: int, folder: Path) -> Sequence[str]:
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "parallel_workers": 0}
    model = {"name": "bench", "implementation": "benchmarks.peers.mlserver_app.Windows", "max_batch_size": 64, "max_batch_time": 0.001}
    (folder / "settings.json").write_text(json.dumps(server | {"use_structured_logging": False, "debug": False}))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(programs / "mlserver"), "start", str(folder)]


def _tensor(window: Any) -> Any:
    shape, data = [1, len(window), len(window[0])], [value for row in window for value in row]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}


PEERS = (
    Peer("LitServe", _litserve, "/predict"),
    Peer("BentoML", _bentoml, "/predict", lambda window: {"inputs": [window]}, lambda answer: list(answer[0])),
    Peer("MLServer", _mlserver, "/v2/models/bench/infer", _tensor, lambda answer: list(answer["outputs"][0]["data"])),
)
