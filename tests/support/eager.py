"""The other implementation: what PyTorch says, from the unmodified model and its own `nn.LSTM`. Nothing of the exporter or the core."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Eager:
    """One sequence's results, without the batch dimension."""

    prediction: np.ndarray  # [O] or [T, O]
    output: np.ndarray  # [T, D*P]
    h_n: np.ndarray  # [L*D, P]
    c_n: np.ndarray  # [L*D, H]


def run(model: nn.Module, x: np.ndarray, h: Any = None, c: Any = None) -> Eager:
    """Run one sequence, from where the model itself begins or from the given state."""
    states = None if h is None else tuple(torch.tensor(np.asarray(s, np.float32))[:, None] for s in (h, c))
    seen = {}

    def start(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return arguments if states is None else (arguments[0], states)

    def watch(_: nn.Module, __: Any, result: Any) -> None:
        seen["output"], (seen["h_n"], seen["c_n"]) = result

    hooks = [model.lstm.register_forward_pre_hook(start), model.lstm.register_forward_hook(watch)]
    try:
        with torch.no_grad():
            y = model(torch.from_numpy(np.asarray(x))[None])
    finally:
        for hook in hooks:
            hook.remove()
    return Eager(y[0].numpy(), seen["output"][0].numpy(), seen["h_n"][:, 0].numpy(), seen["c_n"][:, 0].numpy())


def rollout(model: nn.Module, x: np.ndarray, horizon: int, future: np.ndarray | None) -> np.ndarray:
    """`[n, O]`: each prediction fed back as the first feature, the whole grown sequence run anew from zeros for each step."""
    forecast: list[np.ndarray] = []
    for i in range(horizon):
        y = run(model, x).prediction
        forecast.append(y if y.ndim == 1 else y[-1])
        known: Sequence[float] = [] if future is None else list(future[i])
        x = np.vstack([x, np.array([[forecast[-1][0], *known]], np.float32)])
    return np.stack(forecast)
