"""The served path, hosts in turn: `python -m benchmarks.serving` (needs wrk and requirements/bench.txt).

LSTM 2 x 128, 8 features; load by wrk on the same cores. Hosts: TorchServe with the shipped configuration, with one worker and with
`batchSize: 1`, an ASGI server over the same core that forms batches by itself, and, with windows only, a hand-written ASGI app over ONNX
Runtime and with `--peers` servers from the package index. A step is one observation of a session in the embedded store, flushed to the disk
before the answer. All servers run all the time; each measurement is taken of one host after the other, in several rounds. Reported are
medians, the spread between the rounds, and ratios to the first host.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.load import Measured, wrk
from benchmarks.peers.servers import ENVIRONMENTS, PEERS, Peer
from benchmarks.workloads import FEATURES, STEPS, Workload, begin, workloads
from export.build import CONFIG, Options, build_checkpoint
from export.models import Forecaster
from export.packaging.checkpoint import Checkpoint
from export.packaging.model_spec import ModelSpec
from host.torchserve.launcher import serving

ROOT = Path(__file__).parents[1]
HIDDEN, WINDOW = 128, "window"
LATENCY = CONFIG.with_name("latency.yaml")


@dataclass(frozen=True, slots=True)
class Host:
    """A server that is up."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    workloads: Sequence[str] = ("",)  # how the names begin of those that it serves
    form: Callable[[Any], Any] | None = None  # turns a request of ours into its own
    prediction: Callable[[Any], list[float]] = lambda answer: list(answer["prediction"])

    def serves(self, workload: Workload) -> bool:
        return workload.name.startswith(tuple(self.workloads))

    def bodies(self, workload: Workload) -> Sequence[bytes]:
        """Return the workload's bodies in the form in which this server takes them."""
        return workload.bodies if self.form is None else [json.dumps(self.form(json.loads(body))).encode() for body in workload.bodies]

    def beginnings(self, workload: Workload) -> Sequence[bytes]:
        """Return the bodies that begin the workload's sessions."""
        if self.form is None:
            return begin(workload)
        return [json.dumps(self.form(step)).encode() for body in begin(workload) for step in json.loads(body)["instances"]]


def archive(store: Path, config: Path = CONFIG) -> Path:
    """Export the benchmarks' model into the folder `store`."""
    torch.manual_seed(0)
    model = Forecaster([0.0] * FEATURES, [1.0] * FEATURES, (0,), HIDDEN, 2).eval()
    spec = ModelSpec(name="bench", version="1.0", factory="export/models.py:Forecaster", task="forecast")
    return build_checkpoint(Checkpoint(model, spec, (torch.randn(1, STEPS, FEATURES),)), store, Options(config)).archive


@contextmanager
def torchserve(name: str, folder: Path, config: Path, workers: int | None = None) -> Iterator[Host]:
    """TorchServe with as many workers as said, or as the configuration says."""
    archive(folder / "store", config)
    options = {"minWorkers": workers, "maxWorkers": workers} if workers else {}
    with serving(folder / "run", folder / "store", model_options=options) as server:
        yield Host(name, f"{server.url}/predictions/bench", server.headers())


@contextmanager
def asgi(name: str, application: str, environment: Mapping[str, str], workloads: Sequence[str] = ("",)) -> Iterator[Host]:
    """An application of this package under uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", f"benchmarks.{application}:application", "--port", str(port)]
    with started(
        Host(name, f"http://127.0.0.1:{port}/", workloads=workloads), [*command, "--log-level", "warning", "--no-access-log"], environment
    ) as host:
        yield host


@contextmanager
def peer(known: Peer, folder: Path, environment: Mapping[str, str]) -> Iterator[Host]:
    """A server that others wrote."""
    folder.mkdir()
    port, programs = free_port(), ENVIRONMENTS / known.environment / "bin"
    host = Host(known.name, f"http://127.0.0.1:{port}{known.path}", {}, known.workloads, known.form, known.prediction)
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "BENTOML_DO_NOT_TRACK": "true"}
    with started(host, known.command(programs, port, folder), {**environment, **path}):
        yield host


@contextmanager
def started(host: Host, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Host]:
    """Run a server from this repository's root until it is not needed any more."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, stdout=sys.stderr, cwd=ROOT, env=settings, start_new_session=True)
    try:
        deadline, body = time.monotonic() + 60, _first(host)
        while not _answers(host, body):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{host.name} did not start")
            time.sleep(0.1)
        yield host
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):  # not all of them end the processes that they started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port that is free, as the two after it probably are."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _first(host: Host) -> bytes:
    """Return a body that the server answers before any other."""
    served = next(workload for workload in workloads() if host.serves(workload))
    return (host.beginnings(served) or host.bodies(served))[0]


def _answers(host: Host, body: bytes) -> bool:
    try:
        return httpx.post(host.url, content=body, headers={"Content-Type": "application/json"}, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def hosts(folder: Path, with_peers: bool = False) -> Iterator[list[Host]]:
    """All hosts, each with a folder and a store of its own."""
    with zipfile.ZipFile(archive(folder / "bare")) as contents:
        contents.extractall(folder / "model")
    core = {"MODEL": str(folder / "model"), "CELLSTATE_STORE": f"lmdb://{folder / 'sessions'}", "CELLSTATE_DEVICE": "cpu"}
    graph = {"MODEL_ONNX": str(folder / "model" / "model.onnx")}
    with ExitStack() as stack:
        yield [
            stack.enter_context(torchserve("TorchServe", folder / "throughput", CONFIG)),
            stack.enter_context(torchserve("TorchServe, one worker", folder / "one-worker", CONFIG, workers=1)),
            stack.enter_context(torchserve("TorchServe, latency profile", folder / "latency", LATENCY)),
            stack.enter_context(asgi("own batches (ASGI)", "asgi_host", core)),
            stack.enter_context(asgi("hand-written ASGI app", "peers.asgi_app", graph, (WINDOW,))),
            *[stack.enter_context(peer(known, folder / f"peer{i}", graph)) for i, known in enumerate(PEERS) if with_peers],
        ]


def prepare(host: Host, workload: Workload, expected: dict[tuple[str, int], list[float]]) -> None:
    """Begin the workload's sessions, and check the answer to each of its bodies: the predictions of all hosts are the same."""
    with httpx.Client(headers=dict(host.headers), timeout=60) as client:
        for body in host.beginnings(workload):
            answer = client.post(host.url, content=body, headers={"Content-Type": "application/json"}).raise_for_status()
            assert b'"error"' not in answer.content, answer.text[:500]
        for i, body in enumerate(host.bodies(workload)):
            answer = client.post(host.url, content=body, headers=dict(workload.headers)).raise_for_status()
            assert b'"code"' not in answer.content, answer.content[:500]
            if workload.rows == 1:
                prediction = host.prediction(answer.json())
                assert np.allclose(prediction, expected.setdefault((workload.name, i), prediction), atol=1e-5)


def measure(found: dict[tuple[str, int, str], list[Measured]], all_hosts: list[Host], seconds: int, folder: Path) -> None:
    """Measure every workload once at every number of connections, one host after the other."""
    for number, workload in enumerate(workloads()):
        for connections in workload.connections:
            for host in all_hosts:
                if host.serves(workload):
                    headers = {**workload.headers, **host.headers}
                    taken = wrk(host.url, headers, host.bodies(workload), connections, seconds, folder / f"load{number}")
                    found.setdefault((workload.name, connections, host.name), []).append(taken)


def rows_of(workload: str) -> int:
    return next(known.rows for known in workloads() if known.name == workload)


def report(found: dict[tuple[str, int, str], list[Measured]]) -> Iterator[str]:
    """One line for each measurement, and its ratio to the first host's."""
    reference = 1.0
    for (workload, connections, host), taken in found.items():
        rate = statistics.median(one.rate for one in taken) * rows_of(workload)
        reference = rate if host == "TorchServe" else reference
        spread = (max(one.rate for one in taken) - min(one.rate for one in taken)) * rows_of(workload) / rate
        p50, p99 = (statistics.median(getattr(one, name) for one in taken) for name in ("p50", "p99"))
        errors = sum(one.errors for one in taken)
        line = f"{workload:<30} {connections:>3} connections  {host:<28} {rate:9,.0f} /s ± {spread / 2:4.0%}  {rate / reference:5.2f}"
        yield f"{line}  p50 {p50:8.2f} ms  p99 {p99:8.2f} ms" + (f"  {errors} ERRORS" if errors else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also Triton, LitServe, BentoML and MLServer, which `make peers` installs")
    parser.add_argument("--raw", type=Path, help="where to write the measurements as JSON")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("serving: wrk is not installed (Debian package wrk)", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    found: dict[tuple[str, int, str], list[Measured]] = {}
    expected: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name, hosts(Path(name), options.peers) as all_hosts:
        for host in all_hosts:
            for workload in workloads():
                if host.serves(workload):
                    prepare(host, workload, expected)
        for _ in range(options.rounds):
            measure(found, all_hosts, options.seconds, Path(name))
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}; wrk -t1 on the same cores; rows a second")
    for line in report(found):
        print(line)
    if options.raw:
        raw = [
            {"workload": workload, "connections": connections, "host": host, "rounds": [asdict(one) for one in taken]}
            for (workload, connections, host), taken in found.items()
        ]
        options.raw.write_text(json.dumps(raw, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
