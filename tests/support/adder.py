"""A model small enough to follow by hand, behind the backend's seam: h adds up the inputs, c counts the steps, y is both."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from handlers.inference.backends.base import BackendError, Floats, Run
from handlers.signature import Signature, StateEntry

ADDER = Signature(
    name="adder",
    version="1.0",
    task="forecast",
    outputs=("sum", "count"),
    output_mode="sequence",
    state=(StateEntry("h", 2, 1), StateEntry("c", 2, 3)),  # S = 8; the rows differ, so that none can stand for another
    output_size=1,
    model_digest="ef" * 32,
    features=("sum",),
    feedback={"sum": "sum"},
)
PER_STEP = replace(ADDER, output_mode="step")
WHOLE = replace(ADDER, streaming=False, streaming_reason="it reads the future")
POISON = -1.0


class Adder:
    """Sums in float64 and so the same for any cut. Refuses a batch that holds POISON, as a runtime refuses a batch that it cannot run."""

    device = "cpu"

    def __init__(self, per: str = "sequence") -> None:
        self._per = per
        self.shapes: list[tuple[int, int]] = []  # (B, T) of each run

    def run(self, x: np.ndarray, states: Sequence[Floats], want_output: bool) -> Run:
        self.shapes.append((len(x), x.shape[1]))
        if (x == POISON).any():
            raise BackendError("poison")
        h, c = states
        steps = np.arange(1, x.shape[1] + 1)
        sums = h[0] + x[:, :, 0].astype(np.float64).cumsum(1)  # [B, T]
        counts = c[0, :, :1] + np.broadcast_to(steps, sums.shape)  # [B, T]
        y = np.stack([sums, counts], 2).astype(np.float32)
        h_n = np.stack([sums[:, -1:], -sums[:, -1:]]).astype(np.float32)
        c_n = np.stack([c[0] + len(steps), c[1] - len(steps)]).astype(np.float32)
        return Run(y if self._per == "step" else y[:, -1], sums[:, :, None].astype(np.float32) if want_output else None, (h_n, c_n))


class Overflowing(Adder):
    """For an input of 1000, y and only y leaves the numbers."""

    def run(self, x: np.ndarray, states: Sequence[Floats], want_output: bool) -> Run:
        result = super().run(x, states, want_output)
        return result._replace(y=np.where(x[:, -1] == 1000, np.float32(np.inf), result.y))
