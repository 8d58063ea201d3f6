"""What keeping recent inputs costs a step: `python -m benchmarks.rewarm`.

Two models, each with `rewarm_steps` 0 and `auto`, in one process, taking turns: the traffic model, fed with observations, of which it keeps
the volume of the last 143 hours; and an LSTM 2 x 128 with 8 features, which keeps all of them, of as many steps as it remembers. Sessions
lie in LMDB with fsync, and have all of their inputs when the clock starts. Reported are the calls of functions and the microseconds of one
row, of the processor and by the clock, the lower quartile of the rounds, and the bytes of a record.
"""

import json
import tempfile
import zipfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.core import Prepared, Work, bodies, exported, measure
from export.build import build
from handlers import garbage
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend, open_store
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from handlers.settings import AUTO, Settings
from handlers.signature import Signature
from tests.support.counting import calls

SIZES, ROUNDS = (64, 256), 60
START = np.datetime64("2018-09-01T00:00:00")
KINDS = (0, AUTO)


def observations(frontend: Frontend, size: int) -> Work:
    """Steps of `size` sessions of the traffic model, each an observation with its time."""
    volumes = np.random.default_rng(0).integers(300, 6_000, size).tolist()

    def batch(n: int) -> list[HttpRequest]:
        time = str(START + np.timedelta64(n, "h"))
        rows = [
            {"observations": [{"time": time, "volume": volume}], "session": {"id": f"s{i}", "step": n}} for i, volume in enumerate(volumes)
        ]
        return [HttpRequest(json.dumps(row).encode()) for row in rows]

    return Prepared(frontend, batch)


def traffic(folder: Path) -> Path:
    """Build the traffic model and unpack its archive."""
    with zipfile.ZipFile(build(Path("model_store/traffic"), folder / "store").archive) as contents:
        contents.extractall(folder / "traffic")
    return folder / "traffic"


def compared(name: str, model: Path, size: int) -> None:
    """Measure steps with and without recent inputs, and print a line for each."""
    signature = Signature.load(model / "signature.json")
    with ExitStack() as stack:
        works: dict[str, Work] = {}
        contexts = {}
        for kind in KINDS:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=model.parent))
            settings = Settings(device="cpu", store=f"lmdb://{folder}", store_bytes=4 << 30, rewarm_steps=kind)
            contexts[kind] = ServiceContext(open_backend(model, signature, settings), signature, open_store(settings), settings)
            frontend = Frontend.over(contexts[kind])
            works[str(kind)] = observations(frontend, size) if signature.calendar else bodies(frontend, size, as_instances=False)
        begun = contexts[AUTO].rewarming.steps + 2
        measure(works, begun, size)
        times = measure(works, ROUNDS, size, begun)
        for kind, context in contexts.items():
            work = works[str(kind)]
            assert isinstance(work, Prepared)
            work.prepare(begun + ROUNDS)
            count = calls(partial(work, 0)) / size
            record = next(len(entry.value) for _, entry in context.store.scan(b""))
            steps, (cpu, wall) = context.rewarming.steps, times[str(kind)]
            print(f"{name:<8} {size:>5} {kind!s:>13} {steps:>7} {count:>7.1f} {cpu:>9.1f} {wall:>9.1f} {record:>7}", flush=True)
            context.store.close()


def main() -> None:
    garbage.tune()
    print(f"{'model':<8} {'batch':>5} {'rewarm_steps':>13} {'inputs':>7} {'calls':>7} {'CPU, µs':>9} {'clock, µs':>9} {'record':>7}")
    with exported() as (model, _), tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            compared("traffic", traffic(Path(folder)), size)
            compared("2 x 128", model, size)


if __name__ == "__main__":
    main()
