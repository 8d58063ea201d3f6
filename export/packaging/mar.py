"""Write a `.mar`: a zip with the host's manifest, the artefacts and the handler package, byte for byte the same for the same contents."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import orjson

from export.writers.artefacts import FIXED_TIME

HANDLERS = Path(__file__).resolve().parents[2] / "handlers"


def manifest(name: str, version: str) -> bytes:
    """`MAR-INF/MANIFEST.json`. The handler is named as a module: the host imports it from the archive's root."""
    model = {"modelName": name, "modelVersion": version, "handler": "handlers.lstm_handler", "configFile": "model-config.yaml"}
    document = {"createdOn": "01/01/1980 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def handler_files() -> dict[str, bytes]:
    """The whole handler package, and nothing else."""
    return {f"handlers/{path.relative_to(HANDLERS).as_posix()}": path.read_bytes() for path in sorted(HANDLERS.rglob("*.py"))}


def write_archive(target: Path, files: Mapping[str, bytes]) -> None:
    """Write beside, flush, then rename: a reader sees the old archive or the new one, never half of one."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(files):
                    archive.writestr(zipfile.ZipInfo(name, FIXED_TIME), files[name])
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
