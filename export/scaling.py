"""Put a scaler that was fitted outside a model into it, so that clients send and receive their own units."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import Tensor, nn

from export.errors import CheckpointError

FIELDS = ("mean", "scale", "output_mean", "output_scale")
HOW = 'json.dump({"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}, open("scaler.json", "w"))'


class Scaled(nn.Module):
    """A model between two scalers: x `[B, T, F]` in the data's units -> `(x - mean) / scale` -> model -> `y * output_scale + output_mean`.

    `mean` and `scale` hold one value for each feature, those of the output one for each column of y. Only the first argument of forward is
    scaled, and only a tensor that the model returns, or the first of several.
    """

    mean: Tensor
    scale: Tensor
    output_mean: Tensor
    output_scale: Tensor

    def __init__(self, model: nn.Module, scaler: Mapping[str, Sequence[float]]) -> None:
        super().__init__()
        self.model = model
        for name, default in zip(FIELDS, (0.0, 1.0, 0.0, 1.0), strict=True):
            self.register_buffer(name, torch.tensor(scaler.get(name, [default]), dtype=torch.float32))

    def forward(self, x: Tensor, *others: Any) -> Any:
        result = self.model((x - self.mean) / self.scale, *others)
        if isinstance(result, tuple | list):
            return (self._in_units(result[0]), *result[1:])
        return self._in_units(result)

    def _in_units(self, y: Tensor) -> Tensor:
        return y * self.output_scale + self.output_mean


def read_scaler(path: Path) -> dict[str, list[float]]:
    """Read a scaler's parameters from a JSON file. Raises CheckpointError, also for a pickle, which would run code."""
    if path.suffix != ".json":
        raise CheckpointError(f"{path}: a scaler is read from JSON, since pickles and joblib files run code; write it with {HOW}")
    try:
        return check_scaler(orjson.loads(path.read_bytes()), str(path))
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: {e}") from e


def check_scaler(document: Any, where: str) -> dict[str, list[float]]:
    """Return the parameters of a scaler. Raises CheckpointError for unknown fields, for what is no number, and for a scale of 0."""
    if not isinstance(document, dict) or not document or not set(document) <= set(FIELDS):
        raise CheckpointError(f"{where}: expected an object with {', '.join(FIELDS)}; a StandardScaler is written with {HOW}")
    for name, values in document.items():
        numbers = isinstance(values, list) and values and all(type(value) in (int, float) for value in values)
        if not numbers or (name.endswith("scale") and 0 in values):
            raise CheckpointError(f"{where}: {name}: expected a list of numbers{', none of them 0' if name.endswith('scale') else ''}")
    return document
