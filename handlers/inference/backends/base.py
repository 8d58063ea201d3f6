"""The seam of the model runners: arrays in, arrays out.

A backend knows one artefact and one device. It does not know requests, sessions or how rows were gathered.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Run(NamedTuple):
    """What a model run gives. Arrays are fresh: the caller may keep them."""

    y: Floats  # [B, O], or [B, T, O] when the signature says per step
    output: Floats | None  # [B, T, D*P], when asked for
    states: tuple[Floats, ...]  # each [L*D, B, size], in signature order


class Backend(Protocol):
    device: str  # "cpu" or "cuda", as found

    def run(self, x: npt.NDArray[np.generic], states: Sequence[Floats], want_output: bool) -> Run:
        """x `[B, T, F]` float32, or `[B, T]` int64 token ids; B and T at least 1. Raises BackendError when the runtime fails."""


class BackendError(RuntimeError):
    """The runtime failed on a batch; which of its rows was to blame is for the caller to find out."""
