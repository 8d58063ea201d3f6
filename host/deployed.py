"""What an operator deployed on a server: which version of each model is the default, which were before, and which are retired.

The store holds the archives, and this file in the server's folder says which of them are served: both outlive a restart.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from host.archives import Archive, by_model
from host.folder import private_file
from host.ports import HostError

FILE = "deployed.json"
FORMAT = 1
KEPT = 10  # earlier defaults of a model


@dataclass
class Deployed:
    """The choices for one server. `defaults` holds the versions of each model that were made its default, the present one last."""

    defaults: dict[str, list[str]] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)  # name/version

    @classmethod
    def read(cls, folder: Path) -> "Deployed":
        """Return what the folder says, or nothing chosen where nothing was deployed. Raises HostError for a file that cannot be read."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text())
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r} is not known")
            defaults = {str(name): [str(version) for version in versions] for name, versions in document["defaults"].items()}
            return cls(defaults, [str(address) for address in document["retired"]])
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise HostError(f"{path} cannot be read ({type(e).__name__}: {e}): put it right, or delete it to serve every archive") from e

    def write(self, folder: Path) -> None:
        """Replace the file as a whole."""
        document = {"format": FORMAT, "defaults": self.defaults, "retired": self.retired}
        new = private_file(folder / f"{FILE}.new", json.dumps(document, indent=1) + "\n")
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(folder / FILE)

    def served(self, archives: Sequence[Archive]) -> list[Archive]:
        """Return the archives that are not retired. Raises HostError when every one is."""
        left = [archive for archive in archives if archive.address not in self.retired]
        if not left:
            raise HostError(f"every archive of the store is retired in {FILE}: deploy one, or delete that file")
        return left

    def default_of(self, archives: Sequence[Archive]) -> Archive:
        """Return which of the versions of one model is the default: the one that was chosen last and is there, else the highest."""
        versions = {archive.version: archive for archive in archives}
        chosen = (versions[version] for version in reversed(self.defaults.get(archives[-1].name, [])) if version in versions)
        return next(chosen, archives[-1])

    def default_versions(self, archives: Sequence[Archive]) -> list[Archive]:
        """Return the default version of each model. `archives` are sorted as by `archives.find`."""
        return [self.default_of(versions) for versions in by_model(archives)]

    def choose(self, model: str, version: str, before: str) -> None:
        """Make `version` the default of a model whose default was `before`."""
        chosen = [other for other in self.defaults.get(model, []) or [before] if other != version]
        self.defaults[model] = [*chosen, version][-KEPT:]
        self.retired = [address for address in self.retired if address != f"{model}/{version}"]

    def roll_back(self, model: str, version: str) -> None:
        """Make an earlier default of a model the default again, and forget those after it."""
        chosen = self.defaults[model]
        self.defaults[model] = chosen[: chosen.index(version) + 1]

    def retire(self, address: str) -> None:
        """Serve a version no more, and forget that it was a default."""
        model, _, version = address.partition("/")
        self.retired = sorted({*self.retired, address})
        self.defaults[model] = [other for other in self.defaults.get(model, []) if other != version]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock with which one command at a time changes what is deployed on a server. Raises HostError when another holds it."""
    with open(os.open(folder / "deploy.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(f"{folder}: another command is changing what is deployed there: try again when it has ended") from None
        yield
