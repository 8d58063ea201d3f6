"""Measure how far two tensors are apart."""

from torch import Tensor


def difference(actual: Tensor, expected: Tensor, floor: float = 1.0) -> float:
    """Return the largest scaled difference; infinite for another shape, NaN for a NaN.

    Each column of the last axis is scaled by its own largest absolute reference, or by `floor` where that is smaller, so one tolerance
    serves an output in vehicles an hour, one in degrees beside it, and a state within ±1.
    """
    if actual.shape != expected.shape:
        return float("inf")
    columns = expected.shape[-1] if expected.dim() else 1
    apart = (actual - expected).abs().reshape(-1, columns).amax(0)
    return float((apart / expected.abs().reshape(-1, columns).amax(0).clamp(min=floor)).max())
