"""Write a lifted model as TorchScript and as ONNX, both with the same names and with B and T dynamic.

Both files are made byte for byte reproducible: no path, no time, no compression whose result depends on a library's version.
"""

import io
import warnings
import zipfile
from pathlib import Path

import onnx
import torch

from export.lift import Lift

OPSET = 18
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can state


def write_torchscript(lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Trace the module over `x` `[B, T, …]` and save it to `target`."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of what the verifier then measures
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            lifted.module, (x, *lifted.zeros(len(x))), check_trace=False
        )
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    target.write_bytes(without_debug_records(buffer.getvalue(), target.stem))


def without_debug_records(data: bytes, stem: str) -> bytes:
    """The same TorchScript file under one folder name, without the records that hold source lines and paths of this machine."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            if not name.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(f"{stem}/{name.split('/', 1)[1]}", FIXED_TIME), source.read(name))
    return result.getvalue()


def write_onnx(lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Export the module to `target` and check it at the checker's strictest."""
    inputs = ["x", *(entry.input for entry in lifted.state)]
    states = [entry.output for entry in lifted.state]
    axes = {"x": {0: "B", 1: "T"}, "y": {0: "B"}, "output": {0: "B", 1: "T"}}
    axes |= {name: {1: "B"} for name in (*inputs[1:], *states)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of its deprecation (docs/decisions/onnx-exporter.md), and as above
        y = lifted.module(x, *lifted.zeros(len(x)))[0]
        if y.dim() == 3:
            axes["y"][1] = "T"
        arguments = (x, *lifted.zeros(len(x)))
        torch.onnx.export(
            lifted.module, arguments, target, dynamo=False, opset_version=OPSET, input_names=inputs,
            output_names=["y", "output", *states], dynamic_axes=axes, do_constant_folding=True,
        )  # fmt: skip
    onnx.checker.check_model(str(target), full_check=True)


def add_metadata(target: Path, key: str, value: str) -> None:
    """Put one entry into an ONNX file's metadata."""
    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, {key: value})
    onnx.save(model, str(target))
