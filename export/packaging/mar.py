"""Write a `.mar`: a zip with TorchServe's manifest, the artefacts and the handler package, byte for byte the same for the same contents."""

import os
import zipfile
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


def find_archive(store: Path, name: str, version: str) -> Path | None:
    """Return the archive of a model's version in `store`, also under the name that earlier releases gave it; None when there is none."""
    target = store / archive_name(name, version)
    earlier = store / f"{name}.mar"
    return target if target.exists() else earlier if _holds(earlier, name, version) else None


def archive_name(name: str, version: str) -> str:
    """Return the name of the file that a model's version is archived in."""
    return f"{name}-{version}.mar"


def _holds(archive: Path, name: str, version: str) -> bool:
    try:
        with zipfile.ZipFile(archive) as contents:
            model = orjson.loads(contents.read("MAR-INF/MANIFEST.json"))["model"]
        return bool((model["modelName"], model["modelVersion"]) == (name, version))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return False


def write_archive(target: Path, files: Mapping[str, bytes], existing: Path | None = None, replace: bool = False) -> None:
    """Write `files` to a temporary file beside `target`, flush it, and rename it, so a reader never sees half an archive.

    `existing` is the archive of the same version that is there already. It stays when it has the same contents, and is removed with
    `replace`.

    Raises:
        FileExistsError: `existing` has other contents.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            write_zip(stream, files)
            stream.flush()
            os.fsync(stream.fileno())
        if existing is not None and not replace and existing.read_bytes() != part.read_bytes():
            raise FileExistsError(f"{existing} holds this version with other contents")
        part.replace(target)
        if existing is not None and existing != target:
            existing.unlink()
    finally:
        part.unlink(missing_ok=True)
