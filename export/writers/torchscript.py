"""Write a lifted model as TorchScript, byte for byte the same for the same model."""

import io
import re
import zipfile
from pathlib import Path

import torch

from export.lift.lifted import Lift
from export.writers.tracing import exporting, questions, traced
from export.zip_files import write_zip

BUILD_RECORDS = (".debug_pkl", "/serialization_id")  # source lines and paths of the building machine, and a digest over them


def write_torchscript(module: torch.nn.Module, lifted: Lift, x: torch.Tensor, target: Path) -> list[str]:
    """Trace `module` over `x` `[B, T, …]` and save it to `target`. Raises LiftError for what TorchScript cannot hold.

    Returns the user's lines at which the tracer took a Python number from a tensor.
    """
    buffer = io.BytesIO()
    with exporting("TorchScript") as warned:
        torch.jit.save(module if isinstance(module, torch.jit.ScriptModule) else traced(module, lifted, x), buffer)
    target.write_bytes(without_build_records(buffer.getvalue(), target.stem))
    return questions(warned)


def without_build_records(data: bytes, folder: str) -> bytes:
    """Return the TorchScript file with its entries under `folder`, and without records that differ from build to build."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        names = [name for name in source.namelist() if not name.endswith(BUILD_RECORDS)]
        files = {_without_export_number(f"{folder}/{n.split('/', 1)[1]}".encode()).decode(): source.read(n) for n in names}
    result = io.BytesIO()
    write_zip(result, {name: _without_export_number(content) for name, content in files.items()})
    return result.getvalue()


def _without_export_number(data: bytes) -> bytes:
    """Replace the number of the export in class names by zeros; pickles hold lengths, so the length stays."""
    return re.sub(rb"x\d{8}_", b"x00000000_", data)
