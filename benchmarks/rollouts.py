"""What a forecast costs beside as many bare steps of the model: `python -m benchmarks.rollouts`.

LSTM 2 x 128 with one value that feeds back and seven that are known in advance; horizons of 24 and 168 steps for 1 and 64 rows.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from benchmarks.core import bare, exported, timed
from benchmarks.workloads import FEATURES
from handlers.engine.factory import open_backend
from handlers.forecasting.rollout import RolloutRow, rollout
from handlers.settings import Settings

ROUNDS = 15


def main() -> int:
    torch.set_num_threads(1)
    with exported() as (model, signature):
        signature = replace(signature, feedback={signature.outputs[0]: signature.features[0]})
        backend = open_backend(model, signature, Settings(device="cpu"))
        for size in (1, 64):
            for horizon in (24, 168):
                future = np.zeros((horizon, FEATURES - 1), np.float32)
                row = RolloutRow(np.zeros(1, np.float32), np.zeros(signature.state_length, np.float32), horizon, future)
                whole = timed(lambda n: rollout(backend, signature, [row] * size, 256), ROUNDS)  # noqa: B023 - called at once
                step = timed(bare(backend, signature, size), ROUNDS)
                print(f"B = {size:<3} horizon {horizon:<4} {whole * 1e3:8.2f} ms, {whole / (horizon - 1) / step:5.2f} x as many bare steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
