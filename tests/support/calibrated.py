"""A model with intervals: calibrated as the exporter does it, on a series of its own."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.calibrate import calibrate
from export.verify.runners import open_artefact

if TYPE_CHECKING:
    from tests.conftest import Exported


def write_series(path: Path, values: np.ndarray, names: tuple[str, ...] = ("load",)) -> Path:
    """Write `[N, columns]` as CSV; NaN was not measured."""
    rows = [",".join("" if np.isnan(value) else f"{value:.6g}" for value in row) for row in values]
    path.write_text("\n".join([",".join(names), *rows]) + "\n")
    return path


def calibrated(model: "Exported", series: Path, horizon: int) -> "Exported":
    """Return the model with what the exporter measures on that series."""
    runner, initial = open_artefact("onnxruntime", model.folder / "model.onnx"), np.array(model.signature.initial_state, np.float32)
    intervals = calibrate(series, model.signature, runner, initial, horizon)
    return replace(model, signature=replace(model.signature, intervals=intervals))
