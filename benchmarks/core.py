"""The core without HTTP beside bare ONNX Runtime, in one process, taking turns: `python -m benchmarks.core`.

LSTM 2 x 128, 8 features, one observation a request, every step of a session of its own. Reported are the processor time
of one row, its ratio to bare ONNX Runtime's at the same batch in the same rounds, and the time by the clock, which includes the disk's.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import workloads
from benchmarks.serving import archive
from benchmarks.workloads import FEATURES
from handlers import garbage
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend, open_store
from handlers.inference import batching
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from handlers.protocols.open_inference.binary import HEADER_LENGTH
from handlers.settings import Settings
from handlers.signature import Signature
from tests.support.valkey_server import ALWAYS
from tests.support.valkey_server import serving as serving_valkey

BATCHES = (1, 16, 64, 256, 1024)
EMBEDDED = {"memory": ("memory://", True), "LMDB": ("lmdb://{}", True), "LMDB, no fsync": ("lmdb://{}", False)}
Work = Callable[[int], None]  # one batch; the argument counts the batches


class Times(NamedTuple):
    """Microseconds of one row: of the processor, and by the clock."""

    cpu: float
    wall: float


def bare(backend: object, signature: Signature, size: int) -> Work:
    """ONNX Runtime alone: arrays in, arrays out."""
    x = np.zeros((size, 1, FEATURES), np.float32)
    states = batching.split(np.zeros((size, signature.state_length), np.float32), signature)
    return lambda n: backend.run(x, states, False)  # type: ignore[attr-defined]


def bodies(frontend: Frontend, size: int, as_instances: bool) -> Work:
    """Steps of `size` sessions, as bodies of their own or as the instances of one body."""
    random = np.random.default_rng(0)
    values = random.normal(size=(size, 1, FEATURES)).round(3).tolist()

    def batch(n: int) -> list[HttpRequest]:
        requests = [{"inputs": x, "session": {"id": f"s{i}", "step": n}} for i, x in enumerate(values)]
        if as_instances:
            return [HttpRequest(json.dumps({"instances": requests}).encode())]
        return [HttpRequest(json.dumps(request).encode()) for request in requests]

    return Prepared(frontend, batch)


def tensors(frontend: Frontend, size: int) -> Work:
    """Steps of `size` sessions as the binary tensors of one body of the Open Inference Protocol."""
    values, ids = np.random.default_rng(0).normal(size=(size, 1, FEATURES)), [f"s{i}" for i in range(size)]

    def batch(n: int) -> list[HttpRequest]:
        body, header_length = workloads.tensors(values, ids, n)
        return [HttpRequest(body, {HEADER_LENGTH: str(header_length)})]

    return Prepared(frontend, batch)


class Prepared:
    """Handles batches that were built, before the clock runs, by `prepare`."""

    def __init__(self, frontend: Frontend, batch: Callable[[int], list[HttpRequest]]) -> None:
        self._frontend, self._batch = frontend, batch
        self._next: list[HttpRequest] = []

    def prepare(self, n: int) -> None:
        self._next = self._batch(n)

    def __call__(self, n: int) -> None:
        for response in self._frontend.handle_batch(self._next):
            assert response.status == 200, response.body
            assert b'"error":{' not in response.body, response.body


@contextmanager
def exported() -> Iterator[tuple[Path, Signature]]:
    """The benchmarks' model: the folder of its unpacked archive, and its signature."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(archive(folder / "store")) as contents:
            contents.extractall(folder / "model")
        yield folder / "model", Signature.load(folder / "model" / "signature.json")


@contextmanager
def frontends(model: Path, signature: Signature) -> Iterator[dict[str, Frontend]]:
    """A front end over each kind of store, all over one backend. The stores lie beside the folder `model`.

    Valkey is a server of its own on this machine that flushes each commit to the disk; the time of its process is not this process's.
    """
    with ExitStack() as stack:
        urls = {}
        for name, (url, sync) in EMBEDDED.items():
            urls[name] = url.format(stack.enter_context(tempfile.TemporaryDirectory(dir=model.parent))), sync
        server = stack.enter_context(serving_valkey(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=model.parent))), **ALWAYS))
        urls["Valkey"] = f"{server.url}/0", True
        yield {name: _frontend(model, signature, url, sync) for name, (url, sync) in urls.items()}


def _frontend(model: Path, signature: Signature, url: str, sync: bool) -> Frontend:
    settings = Settings(device="cpu", store=url, store_bytes=4 << 30, store_sync=sync, max_instances=4096)
    return Frontend.over(ServiceContext(open_backend(model, signature, settings), signature, open_store(settings), settings))


def measure(works: dict[str, Work], rounds: int, size: int, first: int = 0) -> dict[str, Times]:
    """Run every work once a round, in turn; return the time of one row in the lower quartile of the rounds, which count from `first`."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for n in range(first, first + rounds):
        for name, work in works.items():
            if isinstance(work, Prepared):
                work.prepare(n)
            cpu, wall = time.process_time(), time.perf_counter()
            work(n)
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: Times(*(lower_quartile(column) / size * 1e6 for column in zip(*rows, strict=True))) for name, rows in taken.items()}


def lower_quartile(values: Sequence[float]) -> float:
    """Return what a quarter of the values lie below: others on the machine make a measurement longer, never shorter."""
    return statistics.quantiles(values, n=4)[0]


def timed(work: Callable[[int], object], rounds: int) -> float:
    """Return the lower quartile of the seconds that `work` takes, by the clock; its argument counts the rounds."""
    taken = []
    for n in range(rounds):
        began = time.perf_counter()
        work(n)
        taken.append(time.perf_counter() - began)
    return lower_quartile(taken)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each measurement")
    parser.add_argument("--raw", type=Path, help="where to write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    garbage.tune()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}")
    print("microseconds of processor time a row, its ratio to bare ONNX Runtime's; microseconds of wall time a row")
    results: dict[int, dict[str, Times]] = {}
    with exported() as (model, signature):
        for size in BATCHES:
            found = results[size] = {}
            for form in ("bodies", "one JSON body", "binary tensors")[: 3 if size > 1 else 1]:
                with frontends(model, signature) as made:
                    backend = made["memory"].service.context.backend
                    works: dict[str, Work] = {"bare ONNX Runtime": bare(backend, signature, size)}
                    works |= {f"{form}, {store}": FORMS[form](frontend, size) for store, frontend in made.items()}
                    times = measure(works, max(12, options.rows // size), size)
                    reference = times["bare ONNX Runtime"]
                for work, (cpu, wall) in times.items():
                    print(f"B = {size:<5} {work:<28} {cpu:8.1f}  {cpu / reference.cpu:6.2f}  {wall:8.1f}", flush=True)
                found |= {f"{work} (beside {form})" if work in found else work: taken for work, taken in times.items()}
    if options.raw:
        options.raw.write_text(
            json.dumps({size: {work: taken._asdict() for work, taken in found.items()} for size, found in results.items()}, indent=1) + "\n"
        )
    return 0


FORMS: dict[str, Callable[[Frontend, int], Work]] = {
    "bodies": lambda frontend, size: bodies(frontend, size, False),
    "one JSON body": lambda frontend, size: bodies(frontend, size, True),
    "binary tensors": tensors,
}


if __name__ == "__main__":
    sys.exit(main())
