"""From a checkpoint to a verified archive: load, lift, write, verify, sign, pack. Stops at the first disagreement."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import orjson
import torch

import handlers.signature
from export import artefacts, checkpoint, verify
from export.archive import handler_files, manifest, write_archive
from export.checkpoint import Card
from export.errors import ExportError
from export.lift import Lift, lift
from export.verify import Report

CONFIG = Path(__file__).resolve().parent.parent / "config" / "model-config.yaml"
FILES = {"torchscript": "model.pt", "onnxruntime": "model.onnx"}


@dataclass(frozen=True)
class Built:
    """What `build` made."""

    archive: Path
    signature: dict[str, Any]
    report: Report


def build(folder: Path, store: Path, config: Path = CONFIG) -> Built:
    """Export the checkpoint in `folder` to `{store}/{name}.mar`. Raises ExportError and leaves nothing behind, or the old archive."""
    model, card = checkpoint.load(folder)
    sample = card.sample()
    lifted = lift(model, sample)
    with tempfile.TemporaryDirectory() as scratch:
        torchscript, onnx_file = Path(scratch) / FILES["torchscript"], Path(scratch) / FILES["onnxruntime"]
        module, window = artefacts.graph_module(lifted, lifted.window()), lifted.window()
        artefacts.write_torchscript(module, lifted, window, torchscript)
        artefacts.write_onnx(module, lifted, window, onnx_file)
        report = verify.verify(model, lifted, torchscript, onnx_file)
        report.check()
        document = sign(card, model, lifted, report, {"torchscript": torchscript, "onnxruntime": onnx_file})
        artefacts.add_metadata(onnx_file, "cellstate.signature", orjson.dumps(document).decode())
        target = store / f"{card.name}.mar"
        try:
            write_archive(target, _contents(card, document, torchscript, onnx_file, config))
        except OSError as e:
            raise ExportError(f"{target}: {e}") from e
    return Built(target, document, report)


def _contents(card: Card, document: dict[str, Any], torchscript: Path, onnx_file: Path, config: Path) -> dict[str, bytes]:
    return handler_files() | {
        "MAR-INF/MANIFEST.json": manifest(card.name, card.version),
        "signature.json": orjson.dumps(document, option=orjson.OPT_INDENT_2),
        "model-config.yaml": config.read_bytes(),
        FILES["torchscript"]: torchscript.read_bytes(),
        FILES["onnxruntime"]: onnx_file.read_bytes(),
    }


def sign(card: Card, model: torch.nn.Module, lifted: Lift, report: Report, files: dict[str, Path]) -> dict[str, Any]:
    """The signature's document: all that a server must know of the model."""
    graphs = {backend: hashlib.sha256(path.read_bytes()).hexdigest() for backend, path in files.items()}
    weights = weights_digest(model)
    return {
        "format": handlers.signature.FORMAT,
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "task": card.task,
        "inputs": {"kind": "tokens", "vocabulary": card.tokens} if card.tokens else {"kind": "features", "features": list(card.features)},
        "outputs": {"names": list(card.outputs), "per": lifted.per, "output_size": lifted.output_size},
        "state": [{"name": entry.name, "rows": entry.rows, "size": entry.size, "dtype": "float32"} for entry in lifted.state],
        "initial": lifted.initial.tolist() if lifted.initial.any() else [],
        "steps": {"least": lifted.steps[0], "most": lifted.steps[1]},
        **lifted.description,
        "feedback": dict(card.feedback),
        "frequency": card.frequency,
        "streaming": {"possible": not report.streaming_reason, "reason": report.streaming_reason},
        "artefacts": FILES,
        "digests": {
            "model": hashlib.sha256(f"{weights}{graphs['onnxruntime']}".encode()).hexdigest(),
            "weights": weights,
            "graphs": graphs,
        },
        "parity": {
            "tolerance": verify.TOLERANCE,
            "largest": [{"artefact": d.artefact, "output": d.output, "difference": d.value, "where": d.where} for d in report.differences],
        },
        "tools": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
