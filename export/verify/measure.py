"""How far two tensors are apart.

Scaled column by column: the largest absolute difference in a column of the last axis, over the largest absolute reference there, or over
`floor` where that is smaller. So one tolerance serves an output in vehicles an hour, one in degrees beside it, and a state within ±1.
"""

from torch import Tensor


def difference(actual: Tensor, expected: Tensor, floor: float = 1.0) -> float:
    """Infinite for another shape, NaN for a NaN."""
    if actual.shape != expected.shape:
        return float("inf")
    columns = expected.shape[-1] if expected.dim() else 1
    apart = (actual - expected).abs().reshape(-1, columns).amax(0)
    return float((apart / expected.abs().reshape(-1, columns).amax(0).clamp(min=floor)).max())
