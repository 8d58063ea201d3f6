"""Write a lifted model as ONNX, with B and T dynamic."""

from pathlib import Path

import onnx
import torch

from export.lift.lifted import Lift
from export.writers.tracing import exporting, readable_properties

OPSET = 18


def write_onnx(module: torch.nn.Module, lifted: Lift, x: torch.Tensor, target: Path, opset: int = OPSET) -> None:
    """Export `module` to `target` and run ONNX's full check. Raises LiftError. The choice of exporter: docs/decisions/onnx-exporter.md

    Sizes other than B and T stand as numbers in the file.
    """
    inputs = ["x", *(entry.input for entry in lifted.state)]
    states = [entry.output for entry in lifted.state]
    axes = {"x": {0: "B", 1: "T"}, "y": {0: "B"}, "output": {0: "B", 1: "T"}}
    axes |= {name: {1: "B"} for name in (*inputs[1:], *states)}
    if lifted.output_mode == "step":
        axes["y"][1] = "T"
    with exporting("ONNX"), readable_properties(module):
        torch.onnx.export(
            module, (x, *lifted.zeros(len(x))), target, dynamo=False, opset_version=opset,
            input_names=inputs, output_names=["y", "output", *states], dynamic_axes=axes,
        )  # fmt: skip
        _set_static_sizes(lifted, target)
        onnx.checker.check_model(str(target), full_check=True)


def _set_static_sizes(lifted: Lift, target: Path) -> None:
    """Write the sizes of the outputs into the file: the exporter leaves names of its own in their place."""
    model = onnx.load(str(target))
    y = ["B", "T", lifted.width] if lifted.output_mode == "step" else ["B", lifted.width]
    sizes = {"y": y, "output": ["B", "T", lifted.output_size]}
    sizes |= {entry.output: [entry.rows, "B", entry.size] for entry in lifted.state}
    for value in model.graph.output:
        axes = value.type.tensor_type.shape.dim
        for axis, size in zip(axes, sizes[value.name], strict=True):
            axis.Clear()
            if isinstance(size, str):
                axis.dim_param = size
            else:
                axis.dim_value = size
    onnx.save(model, str(target))


def add_metadata(target: Path, key: str, value: str) -> None:
    """Set one entry of an ONNX file's metadata."""
    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, {key: value})
    onnx.save(model, str(target))
