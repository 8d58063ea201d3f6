"""Build a verified archive from a checkpoint: load, lift, write, verify, describe, pack. Stops at the first disagreement."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from export.calibrate import calibrate
from export.errors import ExportError, LiftError
from export.lift.lifted import Lift, lift
from export.packaging import checkpoint
from export.packaging.checkpoint import Checkpoint
from export.packaging.mar import handler_files, manifest, write_archive
from export.packaging.model_spec import ModelSpec
from export.packaging.signature import signature_document
from export.report import Report
from export.verify import parity
from export.verify.runners import open_artefact
from export.writers import onnx, torch_export, torchscript, tracing
from handlers.signature import Signature

CONFIG = Path(__file__).resolve().parent.parent / "config" / "model-config.yaml"
FILES = {"torchscript": "model.pt", "onnxruntime": "model.onnx", "torch.export": "model.pt2"}


@dataclass(frozen=True)
class Built:
    """An archive that was built, its signature document, and what was measured."""

    archive: Path
    signature: dict[str, Any]
    report: Report


@dataclass(frozen=True)
class Calibration:
    """A series that training did not see, and how many steps ahead its forecasts are measured."""

    series: Path
    horizon: int


def build(folder: Path, store: Path, config: Path = CONFIG) -> Built:
    """Export the checkpoint in `folder` to `{store}/{name}.mar`. Raises ExportError and then leaves `store` as it was."""
    return build_checkpoint(checkpoint.load(folder), store, config)


def build_checkpoint(loaded: Checkpoint, store: Path, config: Path = CONFIG, calibration: Calibration | None = None) -> Built:
    """Export a checkpoint that is already in memory. Raises ExportError and then leaves `store` as it was."""
    model = loaded.model
    lifted = lift(model, loaded.example, loaded.spec.tokens)
    spec = loaded.spec.completed(lifted)
    with tempfile.TemporaryDirectory() as scratch:
        files, skipped, questions = _write(lifted, Path(scratch))
        report = parity.verify(model, lifted, files, questions=questions)
        report.check()
        document = signature_document(spec, model, lifted, report, files, skipped)
        if calibration is not None:
            document["intervals"] = _measured(document, files, lifted, calibration)
        onnx.add_metadata(files["onnxruntime"], "cellstate.signature", orjson.dumps(document).decode())
        target = store / f"{spec.name}.mar"
        try:
            store.mkdir(parents=True, exist_ok=True)
            write_archive(target, _contents(spec, document, files, config))
        except OSError as e:
            raise ExportError(f"{target}: {e}") from e
    return Built(target, document, report)


def _measured(document: dict[str, Any], files: dict[str, Path], lifted: Lift, calibration: Calibration) -> dict[str, Any]:
    """Return the errors of the model on the calibration series. Raises CalibrationError."""
    runner = open_artefact("onnxruntime", files["onnxruntime"])
    signature = Signature.from_document(document)
    return calibrate(calibration.series, signature, runner, lifted.initial.numpy(), calibration.horizon)


def _write(lifted: Lift, folder: Path) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """Write the artefacts; return their files by backend, the reason for each that was skipped, and the tracer's questions.

    Only the torch.export program may be skipped: no server runs it yet.
    """
    files = {backend: folder / name for backend, name in FILES.items()}
    window, skipped = lifted.window(), {}
    module = tracing.graph_module(lifted, window)
    questions = torchscript.write_torchscript(module, lifted, window, files["torchscript"])
    onnx.write_onnx(module, lifted, window, files["onnxruntime"])
    try:
        torch_export.write_program(lifted, window, files["torch.export"])
    except LiftError as e:
        skipped["torch.export"] = str(e)
        del files["torch.export"]
    return files, skipped, questions


def _contents(spec: ModelSpec, document: dict[str, Any], files: dict[str, Path], config: Path) -> dict[str, bytes]:
    return handler_files() | {
        "MAR-INF/MANIFEST.json": manifest(spec.name, spec.version),
        "signature.json": orjson.dumps(document, option=orjson.OPT_INDENT_2),
        "model-config.yaml": config.read_bytes(),
        **{path.name: path.read_bytes() for path in files.values()},
    }
