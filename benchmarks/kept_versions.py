"""What a batch of steps costs with earlier states kept: `python -m benchmarks.kept_versions`.

LSTM 2 x 128, 8 features, one observation a request, 128 sessions in LMDB with fsync. Each session has all of its earlier states when the
clock starts. Reported are medians of 30 batches, and the size of the store for each session.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.core import FORMS, Prepared, exported
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend, open_store
from handlers.metrics import PREFIX
from handlers.protocols.frontend import Frontend
from handlers.settings import Settings
from handlers.signature import Signature

KEPT = (0, 8, 64, 255)  # values of keep_versions
SESSIONS, BATCHES = 128, 30
STAGES = ("read", "commit")


def measure(model: Path, signature: Signature, keep: int) -> list[float]:
    """Return the milliseconds of a batch, those of its read and its commit, and the store's KiB for each session."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        settings = Settings(device="cpu", store=f"lmdb://{folder}", store_bytes=4 << 30, keep_versions=keep)
        context = ServiceContext(open_backend(model, signature, settings), signature, open_store(settings), settings)
        frontend = Frontend.over(context)
        work, taken = FORMS["bodies"](frontend, SESSIONS), []
        assert isinstance(work, Prepared)
        for n in range(keep + BATCHES):
            work.prepare(n)
            context.telemetry.take()
            began = time.perf_counter()
            work(n)
            whole = time.perf_counter() - began
            sums = {s.labels["stage"]: s.value for s in context.telemetry.take() if s.name == f"{PREFIX}stage_seconds_sum"}
            taken.append([whole, *[sums[stage] for stage in STAGES]])
        size = context.store.usage().size / SESSIONS / 1024
        context.store.close()
    return [1e3 * statistics.median(column) for column in zip(*taken[keep:], strict=True)] + [size]


def main() -> None:
    print(f"{'keep_versions':>13} {'batch of 128, ms':>17} {'read':>7} {'commit':>7} {'KiB a session':>14}")
    with exported() as (model, signature):
        for keep in KEPT:
            whole, read, commit, size = measure(model, signature, keep)
            print(f"{keep:>13} {whole:>17.1f} {read:>7.1f} {commit:>7.1f} {size:>14.1f}", flush=True)


if __name__ == "__main__":
    main()
