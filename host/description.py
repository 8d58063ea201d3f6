"""server.json: how the commands on a running server know it. Its owner alone can read it, for it holds a key."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from host.folder import private_file
from host.ports import HostError

FILE = "server.json"


@dataclass(frozen=True)
class Description:
    """Where a server is, what it was started with, and the key with which its own commands ask it (`headers`)."""

    url: str
    management: str  # the Unix socket
    metrics: str
    headers: Mapping[str, str]
    sessions: str  # the store's URL, with its password
    store: str  # the folder of the archives
    options: Mapping[str, int]  # that replace the archives' own
    log: str
    pid: int
    ready: bool = False  # whether every model has answered since the start

    def write(self, folder: Path) -> None:
        """Replace the folder's server.json."""
        new = private_file(folder / f"{FILE}.new", json.dumps(asdict(self)))
        new.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Raises HostError when no server was started in the folder, or its description is gone."""
        try:
            return cls(**json.loads((folder / FILE).read_text()))
        except (OSError, ValueError, TypeError) as e:
            raise HostError(f"no server was started in {folder}, or its {FILE} is gone ({e})") from e
