"""How the peers are started and asked. Each runs in an environment of its own: `.peers/NAME`, which `make peers` makes."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).parents[2] / ".peers"
TRITON_MODEL = """name: "{name}"
backend: "python"
max_batch_size: 64
input [{{name: "x", data_type: TYPE_FP32, dims: [-1, 8]}}]
output [{{name: "y", data_type: TYPE_FP32, dims: [1]}}]
instance_group [{{kind: KIND_CPU, count: 1}}]
{batching}
"""
TRITON_BATCHING = {  # no batch waits for more requests
    "window": "dynamic_batching {}",
    "step": "sequence_batching {max_sequence_idle_microseconds: 600000000 oldest {max_candidate_sequences: 2048}}",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A server. `command` takes the folder of its environment's programs, a port and a folder for its settings."""

    name: str
    command: Callable[[Path, int, Path], Sequence[str]]
    path: str
    form: Callable[[Any], Any] = lambda request: request  # turns a request of ours into its own
    prediction: Callable[[Any], list[float]] = lambda answer: list(answer["prediction"])
    workloads: Sequence[str] = ("window",)

    @property
    def environment(self) -> str:
        """The name of its environment."""
        return self.name.split(",")[0].lower()


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


def _triton(programs: Path, port: int, folder: Path) -> Sequence[str]:
    """Triton as its wheel `nvidia-pytriton` brings it: the server and its Python backend, which needs the stub of this Python beside it."""
    [wheel] = programs.parent.glob("lib/python*/site-packages/pytriton/tritonserver")
    shutil.copytree(wheel / "backends", folder / "backends")
    stub = wheel / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    for name, batching in TRITON_BATCHING.items():
        model = folder / "models" / name
        (model / "1").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("triton_model.py"), model / "1" / "model.py")
        (model / "config.pbtxt").write_text(TRITON_MODEL.format(name=name, batching=batching))
    options = [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--http-thread-count=2",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--log-info=false",
    ]
    return ["env", f"LD_LIBRARY_PATH={wheel.parents[1] / 'nvidia_pytriton.libs'}", str(wheel / "bin" / "tritonserver"), *options]


def _tensor(request: Any) -> Any:
    window = request["inputs"]
    shape, data = [1, len(window), len(window[0])], [value for row in window for value in row]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]}


def _sequence_step(request: Any) -> Any:
    """Return a step as Triton takes it. Its sequences have numbers for names."""
    session = request["session"]
    id, begins = (session["id"], True) if isinstance(session, dict) else (session, False)
    number = int("".join(filter(str.isdigit, id))) + 1  # 0 is none
    return {**_tensor(request), "parameters": {"sequence_id": number, "sequence_start": begins, "sequence_end": False}}


def _of_tensor(answer: Any) -> list[float]:
    return list(answer["outputs"][0]["data"])


PEERS = (
    Peer("Triton, Python backend", _triton, "/v2/models/window/infer", _tensor, _of_tensor),
    Peer("Triton, sequences in memory", _triton, "/v2/models/step/infer", _sequence_step, _of_tensor, ("session step",)),
    Peer("LitServe", _litserve, "/predict"),
    Peer("BentoML", _bentoml, "/predict", lambda request: {"inputs": [request["inputs"]]}, lambda answer: list(answer[0])),
    Peer("MLServer", _mlserver, "/v2/models/bench/infer", _tensor, _of_tensor),
)
