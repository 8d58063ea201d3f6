"""What the launcher must know of an archive before a worker loads it: its name, how to run it, and a request that it can answer."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

# How the host runs a model, where the archive does not say: its own defaults, but for a delay that nobody asked for.
UNSAID = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 0, "responseTimeout": 120, "startupTimeout": 120}


@dataclass(frozen=True, slots=True)
class Archive:
    """One `.mar`, its signature's document, and what its YAML says."""

    path: Path
    signature: dict[str, Any]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.signature["name"])

    def registration(self) -> dict[str, Any]:
        """What the host must be told to serve it."""
        said = {name: int(self.config.get(name, value)) for name, value in UNSAID.items()}
        return {"defaultVersion": True, "marName": self.path.name, **said}

    def example(self) -> dict[str, Any]:
        """The smallest request that asks for a real prediction."""
        inputs = self.signature["inputs"]
        return {"inputs": [0] if "vocabulary" in inputs else [[0.0] * len(inputs["features"])]}


def find(store: Path) -> list[Archive]:
    """The archives in a model store, by name. Raises FileNotFoundError when there is none."""
    archives = [_read(path) for path in sorted(store.glob("*.mar"))]
    if not archives:
        raise FileNotFoundError(f"{store} holds no .mar archive: build one with `python -m export build`")
    return archives


def _read(path: Path) -> Archive:
    with zipfile.ZipFile(path) as contents:
        manifest = orjson.loads(contents.read("MAR-INF/MANIFEST.json"))
        config = yaml.safe_load(contents.read(manifest["model"]["configFile"]))
        return Archive(path, orjson.loads(contents.read("signature.json")), config or {})
