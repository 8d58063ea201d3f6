"""One version of a model on one running server: start it beside the others, compare its answer, make it the default, end it."""

import contextlib
import filecmp
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from host.archives import Archive, contents, file_name, find, min_workers, read, refuse_split_memory
from host.deployed import FILE, Deployed
from host.operator import Session, open_existing
from host.ports import HostError
from host.running import RunningServer
from host.torchserve.management import ask

READY = 120.0  # seconds in which a version must answer once its workers have started
POLL = 0.2
TOLERANCE = 1e-3  # scaled; wider than the exporter's, for another device may round otherwise, and other weights are far off
REASON = re.compile(r"refused_to_start .*|\b\w*(?:Error|Exception): .*")


@dataclass(frozen=True)
class Choices:
    """What a server had chosen before a version was made the default: the default of that model, and what was deployed."""

    default: str
    deployed: Deployed


@dataclass(frozen=True)
class Deployment:
    """One version that is being deployed on one server, which may have it already: served, or in its store."""

    server: RunningServer
    archive: Archive
    is_served: bool
    is_stored: bool

    @classmethod
    def of(cls, server: RunningServer, what: str) -> "Deployment":
        """Find the archive that `what`, a file or `model:version`, names. Raises HostError when it cannot be deployed; changes nothing."""
        if not psutil.pid_exists(server.description.pid):
            raise HostError(f"the server in {server.folder} has ended")
        if not server.description.ready:
            raise HostError(f"the server in {server.folder} is still starting: try again when it is ready")
        archive = _find(server, what)
        served = {archive.address: archive for archive in server.models.archives()}.get(archive.address)
        stored = {archive.address: archive for archive in _store(server)}.get(archive.address)
        if served is not None and contents(served) != contents(archive):
            raise HostError(f"{archive.address} is served with other contents: build it as another version")
        if stored is not None and not filecmp.cmp(stored.path, archive.path, shallow=False):
            raise HostError(f"{stored.path} holds {archive.address} with other contents: build it as another version")
        if stored is None and not os.access(server.description.store, os.W_OK):
            raise HostError(f"{server.description.store} cannot be written to: put the archive there, and deploy {_spelled(archive)}")
        return cls(server, archive, served is not None, stored is not None)

    def bring_up(self) -> None:
        """Start the version beside the others and wait until it answers. Raises HostError, and leaves the server as it was then."""
        if self.is_served:
            return
        log = Path(self.server.description.log)
        began = log.stat().st_size if log.exists() else 0
        try:
            if self.archive.address in self.server.management.versions():  # left by a command that was killed
                self.server.management.unregister(self.archive.address)
            staged = self.server.models.stage(self.archive)
            refuse_split_memory([staged], self.server.description.sessions)
            self.server.management.register(staged, min_workers(staged))
            self._wait()
        except HostError as e:
            self.take_down()
            raise HostError(f"{e}{_reason(log, began)}") from e
        except BaseException:
            self.take_down()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + READY
        while not self.server.management.is_ready(self.server.description.url, self.archive):
            if time.monotonic() > end:
                raise HostError(f"{self.archive.address} did not answer within {READY:.0f} s")
            time.sleep(POLL)

    def compare(self) -> float | None:
        """Return how far the version's answer to its example is from the recorded one, None for an archive without one.

        The difference is scaled by the largest number of the recorded answer, or by 1. Raises HostError when it is too large.
        """
        described, recorded = self.server.description, self.archive.signature["outputs"].get("example")
        if recorded is None:
            return None
        answer = ask(described.url, self.archive.address, self.archive.example(), described.headers)
        found, expected = np.asarray(answer.get("prediction"), np.float64), np.asarray(recorded, np.float64)
        if found.shape != expected.shape:
            raise HostError(f"{self.archive.address} answers its example with shape {found.shape}, recorded is {expected.shape}")
        difference = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
        if not difference <= TOLERANCE:
            raise HostError(
                f"{self.archive.address} answers its example otherwise than recorded: difference {difference:.1e}, allowed {TOLERANCE:.0e}"
            )
        return difference

    def switch(self) -> str:
        """Make the version the default, also for the next start, and keep its archive in the store; return the default before."""
        model, folder = self.archive.name, self.server.folder
        if not self.is_stored:
            keep(self.archive, Path(self.server.description.store))
        if not self.is_served:
            self.server.models.publish(Archive(self.server.models.path / f".{file_name(self.archive)}", self.archive.signature))
        deployed, before = Deployed.read(folder), self.server.management.default_version(model)
        deployed.choose(model, self.archive.version, before)
        deployed.write(folder)
        self.server.management.set_default(self.archive)
        return before

    def choices(self) -> Choices:
        """Return what the server has chosen so far. Raises HostError."""
        return Choices(self.server.management.default_version(self.archive.name), Deployed.read(self.server.folder))

    def switch_back(self, before: Choices) -> None:
        """Undo `switch`, as far as it came. Raises HostError or OSError."""
        if before.default != self.archive.version:
            self.server.management.set_default(served_version(self.server, f"{self.archive.name}/{before.default}"))
        if before.deployed == Deployed():
            (self.server.folder / FILE).unlink(missing_ok=True)
        else:
            before.deployed.write(self.server.folder)
        if not self.is_stored:
            (Path(self.server.description.store) / file_name(self.archive)).unlink(missing_ok=True)

    def take_down(self) -> None:
        """Undo `bring_up`."""
        if not self.is_served:
            with contextlib.suppress(HostError):
                self.server.management.unregister(self.archive.address)
            self.server.models.remove(self.archive)


def keep(archive: Archive, store: Path) -> None:
    """Copy an archive into a store: a reader meets the whole file or none. Raises OSError."""
    target = store / file_name(archive)
    part = store / f".{target.name}.{os.getpid()}"
    try:
        shutil.copyfile(archive.path, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def served_version(server: RunningServer, address: str) -> Archive:
    """Return the archive of a version that the server serves. Raises HostError when it does not."""
    archives = {archive.address: archive for archive in server.models.archives()}
    if address not in archives:
        raise HostError(f"{server.folder}: {address.replace('/', ':')} is not served; served: {_listed(archives.values())}")
    return archives[address]


def end(server: RunningServer, archive: Archive) -> None:
    """Serve a version no more. Its archive stays in the store, and is not served after a restart either."""
    deployed = Deployed.read(server.folder)
    deployed.retire(archive.address)
    deployed.write(server.folder)
    server.management.unregister(archive.address)
    server.models.remove(archive)


def live_sessions(server: RunningServer, archive: Archive) -> int:
    """Count the live sessions whose state no other served version of the model has. Reads every session of the model.

    Raises:
        ConfigurationError, StoreUnavailable: the store cannot be looked into.
    """
    others = (other for other in server.models.archives() if other.name == archive.name and other.version != archive.version)
    if archive.state_digest in {other.state_digest for other in others}:
        return 0
    now = time.time()
    store = open_existing(server.description.sessions)
    try:
        sessions = (Session.read(key, entry) for key, entry in store.scan(f"{archive.name}/".encode()))
        return sum(
            session.column(now) == "live" and session.record is not None and session.record.state.digest == archive.state_digest
            for session in sessions
        )
    finally:
        store.close()


def _find(server: RunningServer, what: str) -> Archive:
    if what.endswith(".mar") or os.sep in what:
        return read(Path(what), with_keys=bool(server.description.headers))
    address, archives = what.replace(":", "/", 1), _store(server)
    found = next((archive for archive in archives if archive.address == address), None)
    if found is None:
        raise HostError(f"{server.description.store} has no archive of {what}; it has {_listed(archives)}")
    return read(found.path, with_keys=bool(server.description.headers))


def _store(server: RunningServer) -> list[Archive]:
    """Return the archives in the server's store that can be read."""
    with contextlib.suppress(FileNotFoundError):
        return find(Path(server.description.store), skipped=lambda _: None)
    return []


def _spelled(archive: Archive) -> str:
    return f"{archive.name}:{archive.version}"


def _listed(archives: Iterable[Archive]) -> str:
    return ", ".join(_spelled(archive) for archive in archives) or "nothing"


def _reason(log: Path, began: int) -> str:
    """Return the last error that was logged behind the position `began`, for the end of a message."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(began if began <= log.stat().st_size else 0)  # the log was rotated
        found = REASON.findall(file.read().decode(errors="replace"))
    return f" ({found[-1][:500]})" if found else ""
