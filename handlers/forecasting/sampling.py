"""Sampled paths of a forecast: what seeds them, and the intervals that they give."""

import hashlib
from collections.abc import Sequence

import numpy as np

from handlers.arrays import Floats
from handlers.forecasting.intervals import Interval


def seed(session: str, position: int, request_hash: bytes) -> int:
    """Return what seeds the paths of one request, so that the same request of a session at the same position draws the same values.

    `session` is the session's id, empty without one; `position` is the one before the request's inputs.
    """
    digest = hashlib.blake2b(f"{session}|{position}|".encode() + request_hash, digest_size=16).digest()
    return int.from_bytes(digest, "little")


def sample_intervals(samples: Floats, levels: Sequence[int]) -> list[Interval]:
    """Return lower and upper bounds `[n, P]` for each level, in percent, of paths `[paths, n, P]`.

    The bounds are quantiles of the paths at shares p of `paths + 1` (Weibull), because a value from the same distribution lies below the
    k-th of N drawn ones with probability k / (N + 1). Beyond the outermost paths the outermost path is the bound.
    """
    tails = [(1 - level / 100) / 2 for level in levels]
    shares = np.array([*tails, *(1 - tail for tail in tails)])
    bounds = np.quantile(samples, shares, axis=0, method="weibull").astype(np.float32)
    return list(zip(bounds[: len(levels)], bounds[len(levels) :], strict=True))
