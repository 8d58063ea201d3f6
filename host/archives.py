"""Read archives without loading them: model, version, and requests that the model can answer."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import yaml

from handlers.versions import version_order
from host.ports import HostError

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
    """Return the archives in a model store, sorted by name and version.

    `skipped` is told of each archive that cannot be served, which is then left out: one that cannot be read, or, `with_keys`, one whose
    handlers would answer without a key. Raises HostError for such an archive when there is no `skipped`, and for two of the same name and
    version; FileNotFoundError when there is no archive.
    """
    archives = []
    for path in sorted(store.glob("*.mar")):
        try:
            archives.append(_read(path, with_keys))
            continue
        except OutdatedArchive:
            message = f"{path} was built by a release without API keys: build it again with `python -m export build`, or use --no-auth"
        except (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError) as e:
            message = f"{path} cannot be read as an archive ({type(e).__name__}: {e}): build it again with `python -m export build`"
        if skipped is None:
            raise HostError(message)
        skipped(message)
    if not archives:
        raise FileNotFoundError(f"{store} holds no .mar archive: build one with `python -m export build`")
    archives.sort(key=lambda archive: (archive.name, version_order(archive.version)))
    for one, other in pairwise(archives):
        if one.address == other.address:
            raise HostError(f"{one.path.name} and {other.path.name} are both version {one.version} of {one.name}: remove one of them")
    return archives


def defaults(archives: Sequence[Archive]) -> list[Archive]:
    """Return the highest version of each model, which answers requests without a version. `archives` are sorted as by `find`."""
    return list({archive.name: archive for archive in archives}.values())


def with_options(archive: Archive, folder: Path, options: Mapping[str, int]) -> Archive:
    """Copy an archive into `folder` with other values in its model configuration, such as `minWorkers`; return the copy."""
    copy = folder / f"{archive.name}-{archive.version}.mar"
    with zipfile.ZipFile(archive.path) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as target:
        configuration = orjson.loads(source.read("MAR-INF/MANIFEST.json"))["model"]["configFile"]
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename == configuration:
                content = yaml.safe_dump(yaml.safe_load(content) | dict(options)).encode()
            target.writestr(entry, content)
    return Archive(copy, archive.signature)


def _read(path: Path, with_keys: bool) -> Archive:
    with zipfile.ZipFile(path) as contents:
        if with_keys and KEYS_MODULE not in contents.namelist():
            raise OutdatedArchive
        archive = Archive(path, orjson.loads(contents.read("signature.json")))
        contents.getinfo("MAR-INF/MANIFEST.json")
    archive.name, archive.version, archive.health_check()  # raise KeyError for what is no signature
    return archive
