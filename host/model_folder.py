"""The folder `models` of a server: copies of the archives that it serves, which the store no longer affects."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from host.archives import Archive, file_name, find, with_options


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """TorchServe's model store. `options` replace values of the archives' model configuration, such as `minWorkers`.

    An archive that is being deployed is hidden (its name begins with a dot) until it is known to answer.
    """

    path: Path
    options: Mapping[str, int]

    def fill(self, archives: Sequence[Archive]) -> list[Archive]:
        """Replace what is in the folder by copies of `archives`, and return the copies."""
        for stale in self.path.glob("*.mar"):
            stale.unlink()
        return [self._copy(archive, file_name(archive)) for archive in archives]

    def stage(self, archive: Archive) -> Archive:
        """Return a hidden copy of an archive."""
        return self._copy(archive, f".{file_name(archive)}")

    def publish(self, staged: Archive) -> Archive:
        """Show a hidden copy: the server serves it from now on, and watches it."""
        return Archive(staged.path.replace(self.path / file_name(staged)), staged.signature)

    def remove(self, archive: Archive) -> None:
        """Remove the copy of an archive, hidden or not."""
        for name in (file_name(archive), f".{file_name(archive)}"):
            (self.path / name).unlink(missing_ok=True)

    def archives(self) -> list[Archive]:
        """Return the archives that are served. Raises HostError or OSError when they cannot be read."""
        return find(self.path)

    @property
    def changed_at(self) -> int:
        """When an archive came or went last, in nanoseconds since the epoch; 0 when the folder is gone."""
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def _copy(self, archive: Archive, name: str) -> Archive:
        target = self.path / name
        if self.options:
            return with_options(archive, target, self.options)
        shutil.copyfile(archive.path, target)
        return Archive(target, archive.signature)
