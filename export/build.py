"""Build a verified archive from a checkpoint: load, lift, write, verify, describe, pack. Stops at the first disagreement."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import yaml

from export.calibrate import calibrate
from export.errors import ExportError, LiftError
from export.lift.lifted import Lift, lift
from export.packaging import checkpoint
from export.packaging.checkpoint import Checkpoint
from export.packaging.mar import archive_name, find_archive, handler_files, manifest, write_archive
from export.packaging.model_spec import ModelSpec
from export.packaging.signature import signature_document
from export.report import Report
from export.verify import memory, parity
from export.verify.distribution import check_distributions
from export.verify.runners import LABELS, Runner, open_artefact
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
    """A series that training did not see, and how many steps ahead forecasts of it are measured."""

    series: Path
    horizon: int
    season: int = 1  # steps after which the naive forecast, which scores are relative to, repeats a value


@dataclass(frozen=True)
class Options:
    """How archives are made: TorchServe's configuration of the model, the ONNX opset, whom to tell of progress, what to calibrate on.

    `replace` allows to replace the archive of a version that was built before with other contents.
    """

    config: Path = CONFIG
    opset: int = onnx.OPSET
    progress: Callable[[str], None] = lambda _: None
    calibration: Calibration | None = None
    replace: bool = False


def build(folder: Path, store: Path, config: Path = CONFIG) -> Built:
    """Export the checkpoint in `folder` to `{store}/{name}-{version}.mar`. Raises ExportError and then leaves `store` as it was."""
    return build_checkpoint(checkpoint.load(folder), store, Options(config))


def build_checkpoint(loaded: Checkpoint, store: Path, options: Options = Options()) -> Built:
    """Export a checkpoint that is already in memory. Raises ExportError and then leaves `store` as it was."""
    model, spec = loaded.model, loaded.spec
    options.progress("finding the state")
    lifted = lift(model, loaded.example, spec.tokens, spec.axes, spec.x)
    spec = spec.completed(lifted)
    with tempfile.TemporaryDirectory() as scratch:
        files, skipped, questions = _write(lifted, Path(scratch), options)
        options.progress("comparing with the model")
        report = parity.verify(model, lifted, files, questions=questions)
        report.check()
        files = {backend: path for backend, path in files.items() if backend not in report.dropped}
        document = signature_document(spec, model, lifted, report, files, skipped | dict(report.dropped))
        check_distributions(Signature.from_document(document), lifted)
        if not report.streaming_reason:
            options.progress("measuring its memory")
            document["memory"] = memory.measure(lifted, _served(files))
        if options.calibration is not None:
            options.progress("measuring its forecasts")
            document["intervals"] = _measured(document, files, lifted, options.calibration)
        if "onnxruntime" in files:
            onnx.add_metadata(files["onnxruntime"], "cellstate.signature", orjson.dumps(document).decode())
        target = store / archive_name(spec.name, spec.version)
        try:
            store.mkdir(parents=True, exist_ok=True)
            existing = find_archive(store, spec.name, spec.version)
            write_archive(target, _contents(spec, document, files, options.config), existing, options.replace)
        except FileExistsError as e:
            raise ExportError(f"{e}: build under another version, or insist with --replace") from e
        except OSError as e:
            raise ExportError(f"{target}: {e}") from e
    return Built(target, document, report)


def _measured(document: dict[str, Any], files: dict[str, Path], lifted: Lift, calibration: Calibration) -> dict[str, Any]:
    """Return the errors of the model on the calibration series. Raises CalibrationError."""
    signature = Signature.from_document(document)
    return calibrate(calibration.series, signature, _served(files), lifted.initial.numpy(), calibration.horizon, calibration.season)


def _served(files: dict[str, Path]) -> Runner:
    """Open the artefact that servers run by default."""
    backend = "onnxruntime" if "onnxruntime" in files else "torchscript"
    return open_artefact(backend, files[backend])


def _write(lifted: Lift, folder: Path, options: Options) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """Write the artefacts; return their files by backend, the reason for each that was skipped, and the tracer's questions.

    TorchScript must be written: ONNX has no form for some operators, and no server runs the torch.export program yet.
    """
    files = {backend: folder / name for backend, name in FILES.items()}
    window, skipped = lifted.window(), {}
    module = tracing.graph_module(lifted, window)
    options.progress("writing TorchScript")
    questions = torchscript.write_torchscript(module, lifted, window, files["torchscript"])
    for backend, write in (
        ("onnxruntime", partial(onnx.write_onnx, module, opset=options.opset)),
        ("torch.export", torch_export.write_program),
    ):
        options.progress(f"writing {LABELS[backend].replace(' Runtime', '')}")
        try:
            write(lifted, window, files[backend])
        except LiftError as e:
            skipped[backend] = str(e)
            del files[backend]
    return files, skipped, questions


def _contents(spec: ModelSpec, document: dict[str, Any], files: dict[str, Path], config: Path) -> dict[str, bytes]:
    return handler_files() | {
        "MAR-INF/MANIFEST.json": manifest(spec.name, spec.version),
        "signature.json": orjson.dumps(document, option=orjson.OPT_INDENT_2),
        "model-config.yaml": config.read_bytes() if "onnxruntime" in files else _with_torchscript(config),
        **{path.name: path.read_bytes() for path in files.values()},
    }


def _with_torchscript(config: Path) -> bytes:
    """Return the configuration with the backend that an archive without ONNX has."""
    document = yaml.safe_load(config.read_bytes())
    document["cellstate"] = (document.get("cellstate") or {}) | {"backend": "torchscript"}
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text.encode()
