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
from export.packaging import distribution
from export.packaging.model_spec import ModelSpec
from export.report import TOLERANCE, Report

EXAMPLE_STEPS = 64


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
        "inputs": _inputs(spec, lifted, report),
        "outputs": _outputs(spec, model, lifted),
        "state": [{"name": entry.name, "rows": entry.rows, "size": entry.size, "dtype": "float32"} for entry in lifted.state],
        "initial": lifted.initial.tolist() if lifted.initial.any() else [],
        "steps": {"least": lifted.steps[0], "most": report.max_steps},
        **lifted.description,
        "feedback": dict(spec.feedback),
        "frequency": spec.frequency,
        "calendar": dict(spec.calendar),
        "tensors": dict(spec.tensors),
        "distribution": distribution.documents(spec.distribution, spec.outputs, spec.feedback),
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


def _inputs(spec: ModelSpec, lifted: Lift, report: Report) -> dict[str, Any]:
    """Return what may be sent, and one window that may be.

    `ids` are features that index a table, with the number of ids from 0; `ranges` are other features of integers, with the least and the
    most that the model takes; `integers` are features that the model reads as integers;
    `nonnegative` and `nonpositive` are features whose other sign was not measured.
    """
    example = {"example": _example(lifted).tolist()}
    if spec.tokens:
        return {"kind": "tokens", "vocabulary": spec.tokens} | example
    positive, negative = lifted.sampler.sign_bounds()
    names = np.array(spec.features, dtype=object)
    return {
        "kind": "features",
        "features": list(spec.features),
        "limit": report.input_limit,
        "ranges": {spec.features[column]: list(bounds) for column, bounds in sorted(lifted.sampler.ranges.items())},
        "ids": {spec.features[column]: count for column, count in sorted(lifted.sampler.ids.items())},
        "integers": names[lifted.arguments.integer_mask().numpy()].tolist(),
        "nonnegative": [] if report.signed else names[positive.numpy()].tolist(),
        "nonpositive": [] if report.signed else names[(negative & ~positive).numpy()].tolist(),
    } | example


def _outputs(spec: ModelSpec, model: torch.nn.Module, lifted: Lift) -> dict[str, Any]:
    """Return what the model answers, and the unmodified model's y for the example of the inputs: `[O]`, or `[T, O]` per step."""
    y = lifted.unmodified(model, _example(lifted)[None])[0]
    return {"names": list(spec.outputs), "per": lifted.output_mode, "output_size": lifted.output_size, "example": y.tolist()}


def _example(lifted: Lift) -> torch.Tensor:
    """Return the first row of the example, `[T, F]` or `[T]`, at most 64 steps if the model takes fewer: a request that is answered."""
    window = lifted.window()[0]
    return window if lifted.steps[0] > EXAMPLE_STEPS else window[:EXAMPLE_STEPS]


def _digests(model: torch.nn.Module, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return SHA-256 of the weights, of each graph, and of the model: a session's state belongs to one model digest."""
    weights = weights_digest(model)
    graphs = {backend: hashlib.sha256(path.read_bytes()).hexdigest() for backend, path in files.items()}
    graph = graphs.get("onnxruntime", graphs["torchscript"])
    model_digest = hashlib.sha256(f"{weights}{graph}".encode()).hexdigest()
    return {"model": model_digest, "weights": weights, "graphs": graphs}


def weights_digest(model: torch.nn.Module) -> str:
    """Return SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
