"""Watch a running server: say when a model stops and starts answering, restart dead workers, and give up when that does not help."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from host.archives import Archive
from host.open_files import OpenFiles
from host.ports import HostError
from host.torchserve.management import DEAD, NO_ANSWER

RESTART_AFTER = 30.0  # seconds without a worker after which the workers of a model are restarted; TorchServe itself tries at once
GIVE_UP_AFTER = 150.0  # seconds without a worker, or without any answer of an idle model, after which the server is given up


class Server(Protocol):
    """The part of a running server that is watched."""

    @property
    def running(self) -> bool: ...

    @property
    def archives(self) -> list[Archive]: ...

    def failure(self, archive: Archive) -> str | None:
        """Return why a model does not answer, `DEAD` without a running worker, or None. Raises HostError."""

    def log_tail(self) -> str:
        """Return the last lines of the log."""

    def open_files(self) -> OpenFiles | None:
        """Return the open files of the server; None when they cannot be counted."""

    def is_idle(self, archive: Archive) -> bool:
        """Return whether no request of the model is waiting."""

    def restart_workers(self, archive: Archive) -> None:
        """End the workers of the model and start as many. Raises HostError."""


@dataclass
class _Model:
    """What was seen of one model at the last look."""

    failure: str | None = None
    unanswered_since: float | None = None  # without a worker, or without any answer while idle
    restarted: bool = False


class Watch:
    """Watch `server`; `report` is given one line for each change. `clock` gives seconds and never goes back."""

    def __init__(self, server: Server, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._server, self._report, self._clock = server, report, clock
        self._models: dict[str, _Model] = {}
        self._files: OpenFiles | None = None
        self._few_files = False

    def look(self) -> None:
        """Look once at every model that is served now. Raises HostError when the server has ended or cannot be helped."""
        if not self._server.running:
            raise HostError(f"TorchServe ended by itself\n{self._server.log_tail()}")
        self._look_at_files()
        archives = self._server.archives
        self._models = {archive.address: self._models.get(archive.address, _Model()) for archive in archives}
        for archive in archives:
            self._look_at(archive, self._models[archive.address])

    def _look_at_files(self) -> None:
        self._files = self._server.open_files()
        few = self._files is not None and self._files.few_left
        if few != self._few_files:
            self._report(f"{self._files}{': raise the limit, or let a proxy bound the connections' if few else ', enough again'}")
        self._few_files = few

    def _look_at(self, archive: Archive, model: _Model) -> None:
        try:
            failure = self._server.failure(archive)
            unanswered = failure == DEAD or (failure == NO_ANSWER and self._server.is_idle(archive))
        except HostError:
            failure, unanswered = "TorchServe does not answer", True
        if failure != model.failure:
            self._report(f"{archive.address}: {failure or 'answers again'}")
        model.failure = failure
        if not unanswered:
            model.unanswered_since, model.restarted = None, False
            return
        if model.unanswered_since is None:
            model.unanswered_since = self._clock()
        self._help(archive, model, self._clock() - model.unanswered_since)

    def _help(self, archive: Archive, model: _Model, seconds: float) -> None:
        """Restart the workers once; give up when that did not help. While open files are used up no worker could start."""
        used_up = self._files is not None and self._files.exhausted
        if seconds >= GIVE_UP_AFTER:
            why = self._files if used_up else "restarting its workers did not help"
            raise HostError(f"{archive.address}: {model.failure} for {seconds:.0f} s; {why}")
        if seconds >= RESTART_AFTER and not model.restarted and not used_up:
            model.restarted = True
            self._report(f"{archive.address}: restarting its workers")
            try:
                self._server.restart_workers(archive)
            except HostError as e:
                self._report(f"{archive.address}: {e}")
