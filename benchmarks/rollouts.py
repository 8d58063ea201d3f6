"""What a forecast costs beside as many bare steps of the model: `python -m benchmarks.rollouts`.

LSTM 2 x 128 with one value that feeds back and seven that are known in advance; horizons of 24 and 168 steps for 1 and 64 rows.
"""

import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.core import bare
from benchmarks.serving import archive
from benchmarks.workloads import FEATURES
from handlers.engine.factory import open_backend
from handlers.forecasting.rollout import RolloutRow, rollout
from handlers.settings import Settings
from handlers.signature import Signature

ROUNDS = 15


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(archive(folder / "store")) as contents:
            contents.extractall(folder / "model")
        signature = Signature.load(folder / "model" / "signature.json")
        signature = replace(signature, feedback={signature.outputs[0]: signature.features[0]})
        backend = open_backend(folder / "model", signature, Settings(device="cpu"))
        for size in (1, 64):
            for horizon in (24, 168):
                future = np.zeros((horizon, FEATURES - 1), np.float32)
                row = RolloutRow(np.zeros(1, np.float32), np.zeros(signature.state_length, np.float32), horizon, future)
                whole = _time(lambda: rollout(backend, signature, [row] * size, 256))  # noqa: B023 - called at once
                step = _time(lambda: bare(backend, signature, size)(0))  # noqa: B023
                print(f"B = {size:<3} horizon {horizon:<4} {whole * 1e3:8.2f} ms, {whole / (horizon - 1) / step:5.2f} x as many bare steps")
    return 0


def _time(work: Callable[[], object]) -> float:
    """Return the lower quartile of some rounds, in seconds."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.quantiles(taken, n=4)[0]


if __name__ == "__main__":
    sys.exit(main())
