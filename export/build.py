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
from export.errors import ExportError, LiftError
from export.lift.lifted import Lift, lift
from export.packaging import checkpoint
from export.packaging.checkpoint import Checkpoint
from export.packaging.mar import handler_files, manifest, write_archive
from export.packaging.model_spec import Card
from export.verify import parity as verify
from export.verify.parity import Report
from export.writers import artefacts

CONFIG = Path(__file__).resolve().parent.parent / "config" / "model-config.yaml"
FILES = {"torchscript": "model.pt", "onnxruntime": "model.onnx", "torch.export": "model.pt2"}


@dataclass(frozen=True)
class Built:
    """What `build` made."""

    archive: Path
    signature: dict[str, Any]
    report: Report


def build(folder: Path, store: Path, config: Path = CONFIG) -> Built:
    """Export the checkpoint in `folder` to `{store}/{name}.mar`. Raises ExportError and leaves nothing behind, or the old archive."""
    return build_checkpoint(checkpoint.load(folder), store, config)


def build_checkpoint(loaded: Checkpoint, store: Path, config: Path = CONFIG) -> Built:
    """The same for a model that is already in memory."""
    model = loaded.model
    lifted = lift(model, loaded.example)
    card = loaded.card.completed(lifted)
    with tempfile.TemporaryDirectory() as scratch:
        files, left_out = _write(lifted, Path(scratch))
        report = verify.verify(model, lifted, files)
        report.check()
        document = sign(card, model, lifted, report, files) | {"left_out": left_out}
        artefacts.add_metadata(files["onnxruntime"], "cellstate.signature", orjson.dumps(document).decode())
        target = store / f"{card.name}.mar"
        try:
            store.mkdir(parents=True, exist_ok=True)
            write_archive(target, _contents(card, document, files, config))
        except OSError as e:
            raise ExportError(f"{target}: {e}") from e
    return Built(target, document, report)


def _write(lifted: Lift, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The artefacts by backend's name, and why one is left out. No server runs the torch.export program yet: it may be missing."""
    files = {backend: folder / name for backend, name in FILES.items()}
    window, left_out = lifted.window(), {}
    module = artefacts.graph_module(lifted, window)
    artefacts.write_torchscript(module, lifted, window, files["torchscript"])
    artefacts.write_onnx(module, lifted, window, files["onnxruntime"])
    try:
        artefacts.write_program(lifted, window, files["torch.export"])
    except LiftError as e:
        left_out["torch.export"] = str(e)
        del files["torch.export"]
    return files, left_out


def _contents(card: Card, document: dict[str, Any], files: dict[str, Path], config: Path) -> dict[str, bytes]:
    return handler_files() | {
        "MAR-INF/MANIFEST.json": manifest(card.name, card.version),
        "signature.json": orjson.dumps(document, option=orjson.OPT_INDENT_2),
        "model-config.yaml": config.read_bytes(),
        **{path.name: path.read_bytes() for path in files.values()},
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
        "inputs": _inputs(card, report),
        "outputs": {"names": list(card.outputs), "per": lifted.per, "output_size": lifted.output_size},
        "state": [{"name": entry.name, "rows": entry.rows, "size": entry.size, "dtype": "float32"} for entry in lifted.state],
        "initial": lifted.initial.tolist() if lifted.initial.any() else [],
        "steps": {"least": lifted.steps[0], "most": lifted.steps[1]},
        **lifted.description,
        "feedback": dict(card.feedback),
        "frequency": card.frequency,
        "streaming": {"possible": not report.streaming_reason, "reason": report.streaming_reason},
        "artefacts": {backend: path.name for backend, path in files.items()},
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


def _inputs(card: Card, report: Report) -> dict[str, Any]:
    if card.tokens:
        return {"kind": "tokens", "vocabulary": card.tokens}
    return {"kind": "features", "features": list(card.features), "limit": report.input_limit}


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
