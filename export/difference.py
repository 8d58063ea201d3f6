"""Measure how far two tensors are apart."""

import torch
from torch import Tensor


def difference(actual: Tensor, expected: Tensor, floor: float = 1.0) -> float:
    """Return the largest scaled difference; infinite for another shape, NaN where one has NaN and the other a number.

    Each column of the last axis is scaled by its own largest absolute reference, or by `floor` where that is smaller, so one tolerance
    serves an output in vehicles an hour, one in degrees beside it, and a state within ±1. Two NaN are equal, as are two equal infinities.
    """
    if actual.shape != expected.shape:
        return float("inf")
    columns = expected.shape[-1] if expected.dim() else 1
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    apart = torch.where(same, 0.0, (actual - expected).abs()).reshape(-1, columns).amax(0)
    scale = torch.where(expected.isfinite(), expected.abs(), 0.0).reshape(-1, columns).amax(0)
    return float((apart / scale.clamp(min=floor)).max())


def as_text(value: float) -> str:
    """Say how far a result is from the model's: an infinite difference is another shape, or an infinite number."""
    if value != value:
        return "gives NaN where the model gives a number, or the reverse"
    return "gives a result of another shape, or an infinite one" if value == float("inf") else f"differs from the model by {value:.1e}"
