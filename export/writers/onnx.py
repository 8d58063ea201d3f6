"""Write a lifted model as ONNX, with B and T dynamic."""

from pathlib import Path

import onnx
import torch

from export.lift.lifted import Lift
from export.writers.tracing import exporting

OPSET = 18


def write_onnx(module: torch.nn.Module, lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Export `module` to `target` and run ONNX's full check. Raises LiftError. The choice of exporter: docs/decisions/onnx-exporter.md"""
    inputs = ["x", *(entry.input for entry in lifted.state)]
    states = [entry.output for entry in lifted.state]
    axes = {"x": {0: "B", 1: "T"}, "y": {0: "B"}, "output": {0: "B", 1: "T"}}
    axes |= {name: {1: "B"} for name in (*inputs[1:], *states)}
    if lifted.output_mode == "step":
        axes["y"][1] = "T"
    with exporting("ONNX"):
        torch.onnx.export(
            module, (x, *lifted.zeros(len(x))), target, dynamo=False, opset_version=OPSET,
            input_names=inputs, output_names=["y", "output", *states], dynamic_axes=axes,
        )  # fmt: skip
        onnx.checker.check_model(str(target), full_check=True)


def add_metadata(target: Path, key: str, value: str) -> None:
    """Set one entry of an ONNX file's metadata."""
    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, {key: value})
    onnx.save(model, str(target))
