"""Read what is needed of an archive before a worker loads it: the model's name, and a request that it can answer."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Archive:
    """One `.mar` file and the document of its signature."""

    path: Path
    signature: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.signature["name"])

    def example(self) -> dict[str, Any]:
        """Return the smallest request for a real prediction."""
        inputs = self.signature["inputs"]
        return {"inputs": [0] if "vocabulary" in inputs else [[0.0] * len(inputs["features"])]}

    def health_check(self) -> dict[str, Any]:
        """Return a request that needs the model and the session store, and changes nothing."""
        streams = self.signature["streaming"]["possible"]
        return self.example() | ({"session": {"id": "health-check", "step": 0}, "commit": False} if streams else {})


def find(store: Path) -> list[Archive]:
    """Return the archives in a model store, sorted by file name. Raises FileNotFoundError when there is none."""
    archives = [_read(path) for path in sorted(store.glob("*.mar"))]
    if not archives:
        raise FileNotFoundError(f"{store} holds no .mar archive: build one with `python -m export build`")
    return archives


def _read(path: Path) -> Archive:
    with zipfile.ZipFile(path) as contents:
        return Archive(path, orjson.loads(contents.read("signature.json")))
