"""Assemble `signature.json`: all that a server must know of a model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import handlers.signature
from export.lift.lifted import Lift
from export.packaging.model_spec import ModelSpec
from export.report import TOLERANCE, Report


def signature_document(
    spec: ModelSpec, model: torch.nn.Module, lifted: Lift, report: Report, files: Mapping[str, Path], skipped: Mapping[str, str]
) -> dict[str, Any]:
    """Return the document. `files` are the artefacts by backend, `skipped` the reason for each artefact that was not written."""
    return {
        "format": handlers.signature.FORMAT,
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "task": spec.task,
        "inputs": _inputs(spec, report),
        "outputs": {"names": list(spec.outputs), "per": lifted.output_mode, "output_size": lifted.output_size},
        "state": [{"name": entry.name, "rows": entry.rows, "size": entry.size, "dtype": "float32"} for entry in lifted.state],
        "initial": lifted.initial.tolist() if lifted.initial.any() else [],
        "steps": {"least": lifted.steps[0], "most": lifted.steps[1]},
        **lifted.description,
        "feedback": dict(spec.feedback),
        "frequency": spec.frequency,
        "calendar": dict(spec.calendar),
        "streaming": {"possible": not report.streaming_reason, "reason": report.streaming_reason},
        "artefacts": {backend: path.name for backend, path in files.items()},
        "skipped": dict(skipped),
        "digests": _digests(model, files),
        "parity": {
            "tolerance": TOLERANCE,
            "largest": [{"artefact": d.artefact, "output": d.output, "difference": d.value, "where": d.where} for d in report.differences],
        },
        "tools": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


def _inputs(spec: ModelSpec, report: Report) -> dict[str, Any]:
    if spec.tokens:
        return {"kind": "tokens", "vocabulary": spec.tokens}
    return {"kind": "features", "features": list(spec.features), "limit": report.input_limit}


def _digests(model: torch.nn.Module, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return SHA-256 of the weights, of each graph, and of the model: a session's state belongs to one model digest."""
    weights = weights_digest(model)
    graphs = {backend: hashlib.sha256(path.read_bytes()).hexdigest() for backend, path in files.items()}
    model_digest = hashlib.sha256(f"{weights}{graphs['onnxruntime']}".encode()).hexdigest()
    return {"model": model_digest, "weights": weights, "graphs": graphs}


def weights_digest(model: torch.nn.Module) -> str:
    """Return SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
