"""Read archives without loading them: model, version, and requests that the model can answer."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import orjson
import yaml

from handlers.versions import version_order
from host.ports import HostError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of a model, of a version: both are parts of paths
KEYS_MODULE = "handlers/keys.py"  # in an archive whose handlers ask for API keys


@dataclass(frozen=True, slots=True)
class Archive:
    """One `.mar` file and the document of its signature."""

    path: Path
    signature: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.signature["name"])

    @property
    def version(self) -> str:
        return str(self.signature["version"])

    @property
    def address(self) -> str:
        """`name/version`: how this version is addressed below `/predictions/` and `/models/`."""
        return f"{self.name}/{self.version}"

    @property
    def state_digest(self) -> bytes:
        """The digest that states of this model carry, as `Signature.digest` of handlers/signature.py; empty where none is recorded."""
        return bytes.fromhex(self.signature.get("digests", {}).get("model", ""))[:16]

    def example(self) -> dict[str, Any]:
        """Return a request that the model answers: the exporter's example, or one step of zeros for an archive without one."""
        inputs = self.signature["inputs"]
        if inputs.get("example"):
            return {"inputs": inputs["example"]}
        return {"inputs": [0] if "vocabulary" in inputs else [[0.0] * len(inputs["features"])]}

    def health_check(self) -> dict[str, Any]:
        """Return a request that needs the model and the session store, and changes nothing."""
        streams = self.signature["streaming"]["possible"]
        return self.example() | ({"session": {"id": "cellstate-health-check", "step": 0}, "commit": False} if streams else {})


class OutdatedArchive(Exception):
    """The archive holds the handlers of a release that does not ask for API keys."""


def find(store: Path, skipped: Callable[[str], None] | None = None, with_keys: bool = False) -> list[Archive]:
    """Return the archives in a model store, sorted by name and version. Hidden files are none of them.

    `skipped` is told of each archive that cannot be served, which is then left out: one that cannot be read, or, `with_keys`, one whose
    handlers would answer without a key. Raises HostError for such an archive when there is no `skipped`, and for two of the same name and
    version; FileNotFoundError when there is no archive, or none is left.
    """
    archives, paths = [], sorted(store.glob("[!.]*.mar"))
    for path in paths:
        try:
            archives.append(read(path, with_keys))
        except HostError as e:
            if skipped is None:
                raise
            skipped(str(e))
    if paths and not archives:
        raise FileNotFoundError(f"none of the {len(paths)} archives in {store} can be served")
    if not archives:
        raise FileNotFoundError(f"{store} holds no .mar archive: build one with `python -m export build`")
    archives.sort(key=lambda archive: (archive.name, version_order(archive.version)))
    for one, other in pairwise(archives):
        if one.address == other.address:
            raise HostError(f"{one.path.name} and {other.path.name} are both version {one.version} of {one.name}: remove one of them")
    return archives


def read(path: Path, with_keys: bool = False) -> Archive:
    """Return the archive in a file. Raises HostError for one that cannot be served: see `find`."""
    try:
        return _read(path, with_keys)
    except OutdatedArchive:
        message = f"{path} was built by a release without API keys: build it again with `python -m export build`, or use --no-auth"
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError) as e:
        message = f"{path} cannot be read as an archive ({_reason(path, e)}): build it again with `python -m export build`"
    raise HostError(message)


def _reason(path: Path, error: Exception) -> str:
    """Return why a file is no archive, in words where they are known."""
    if path.is_dir():
        return "it is a folder"
    if path.is_file() and not path.stat().st_size:
        return "it is empty"
    if isinstance(error, zipfile.BadZipFile) and not zipfile.is_zipfile(path):
        return "it is cut off" if _begins_as_zip(path) else "it is no zip file"
    if isinstance(error, KeyError):
        found = str(error.args[0])  # of a file: "There is no item named … in the archive"
        return found if "in the archive" in found else f"its signature has no {found!r}"
    return f"{type(error).__name__}: {error}"


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def by_model(archives: Sequence[Archive]) -> list[list[Archive]]:
    """Return the versions of each model, which stay in their order. `archives` are sorted as by `find`."""
    return [list(versions) for _, versions in groupby(archives, key=lambda archive: archive.name)]


def file_name(archive: Archive) -> str:
    """Return the name of the file that holds an archive, in a store and in a server's folder."""
    return f"{archive.name}-{archive.version}.mar"


def contents(archive: Archive) -> dict[str, int]:
    """Return the checksum of each file in an archive but the model configuration, which a server may have replaced. Raises OSError."""
    with zipfile.ZipFile(archive.path) as files:
        return {entry.filename: entry.CRC for entry in files.infolist() if entry.filename != _configuration_name(files)}


def min_workers(archive: Archive) -> int:
    """Return how many workers the model configuration of an archive asks for."""
    return max(1, int(configuration(archive).get("minWorkers", 1)))


def refuse_split_memory(archives: Iterable[Archive], sessions: str) -> None:
    """Raise HostError where several workers of a model would each have sessions of their own: `sessions` is the store's URL."""
    if not sessions.startswith("memory:"):
        return
    for archive in archives:
        if (workers := min_workers(archive)) > 1:
            raise HostError(
                f"{sessions} lives inside one worker, and {archive.address} has {workers}: serve with --workers 1, or use lmdb:// or valkey://"
            )


def configuration(archive: Archive) -> dict[str, Any]:
    """Return the model configuration of an archive."""
    with zipfile.ZipFile(archive.path) as files:
        return yaml.safe_load(files.read(_configuration_name(files))) or {}


def with_options(archive: Archive, copy: Path, options: Mapping[str, int]) -> Archive:
    """Copy an archive to `copy` with other values in its model configuration, such as `minWorkers`; return the copy."""
    with zipfile.ZipFile(archive.path) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as target:
        name = _configuration_name(source)
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == name:
                content = yaml.safe_dump(yaml.safe_load(content) | dict(options)).encode()
            target.writestr(entry, content)
    return Archive(copy, archive.signature)


def _configuration_name(files: zipfile.ZipFile) -> str:
    """Return the name of the model configuration in an archive."""
    return str(orjson.loads(files.read("MAR-INF/MANIFEST.json"))["model"]["configFile"])


def _read(path: Path, with_keys: bool) -> Archive:
    with zipfile.ZipFile(path) as contents:
        if with_keys and KEYS_MODULE not in contents.namelist():
            raise OutdatedArchive
        contents.getinfo("MAR-INF/MANIFEST.json")
        archive = Archive(path, orjson.loads(contents.read("signature.json")))
        if broken := contents.testzip():
            raise zipfile.BadZipFile(f"{broken} is damaged")
    if not NAME.fullmatch(archive.name) or not NAME.fullmatch(archive.version):
        raise ValueError(f"{archive.address!r} cannot be addressed")
    archive.health_check()  # raises KeyError for what is no signature
    return archive
