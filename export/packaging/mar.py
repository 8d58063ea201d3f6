"""Write a `.mar`: a zip with TorchServe's manifest, the artefacts and the handler package, byte for byte the same for the same contents."""

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from export.zip_files import write_zip

HANDLERS = Path(__file__).resolve().parents[2] / "handlers"


def manifest(name: str, version: str) -> bytes:
    """Return `MAR-INF/MANIFEST.json`. The handler is named as a module, since TorchServe imports it from the archive's root."""
    model = {"modelName": name, "modelVersion": version, "handler": "handlers.lstm_handler", "configFile": "model-config.yaml"}
    document = {"createdOn": "01/01/1980 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def handler_files() -> dict[str, bytes]:
    """Return every Python file of the handler package, by its path in the archive."""
    return {f"handlers/{path.relative_to(HANDLERS).as_posix()}": path.read_bytes() for path in sorted(HANDLERS.rglob("*.py"))}


def write_archive(target: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` to a temporary file beside `target`, flush it, and rename it, so a reader never sees half an archive."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            write_zip(stream, files)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
