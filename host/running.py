"""A server that runs already, known by the folder that it was started in: its health, its status, and its end."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from handlers.engine.drain import DrainLock
from handlers.settings import masked
from host import folder as folders
from host.archives import Archive
from host.description import Description
from host.model_folder import ModelFolder
from host.ports import HostError
from host.torchserve.drain import drain
from host.torchserve.management import Management, failure

GRACE = 30.0  # seconds beyond its drain that `serve` may take to end the server
POLL = 0.05  # seconds between two looks at it
COMMAND = "serve.json"


@dataclass(frozen=True)
class RunningServer:
    """The server that was started in `folder` last."""

    folder: Path
    description: Description
    management: Management

    @classmethod
    def of(cls, folder: Path) -> "RunningServer":
        """Raises HostError when no server was started in the folder, or its description is gone."""
        description = Description.read(folder)
        return cls(folder, description, Management(Path(description.management), description.headers))

    @property
    def models(self) -> ModelFolder:
        """The copies of the archives that it serves."""
        return ModelFolder(self.folder / "models", self.description.options)

    def failures(self) -> dict[str, str]:
        """Return why each model that does not answer does not."""
        described = self.description
        found = {a.address: failure(described.url, a.address, a.health_check(), described.headers) for a in self.models.archives()}
        return {model: reason for model, reason in found.items() if reason is not None}

    def status(self) -> dict[str, Any]:
        """Return addresses, process, uptime in seconds, and the state of every model. Raises HostError when TorchServe does not answer."""
        described = self.description
        try:
            started = psutil.Process(described.pid).create_time()
            models = list(self._model_states(self.models.archives()))
        except psutil.Error as e:
            raise HostError(f"the server in {self.folder} has ended") from e
        return {
            "url": described.url,
            "management": described.management,
            "metrics": described.metrics,
            "sessions": masked(described.sessions),
            "pid": described.pid,
            "uptime": round(time.time() - started),
            "models": models,
        }

    def _model_states(self, archives: Sequence[Archive]) -> Iterator[dict[str, Any]]:
        failures = self.failures()
        defaults = {name: self.management.default_version(name) for name in {archive.name for archive in archives}}
        for archive in archives:
            described = self.management.describe(archive.address)
            queue = described["jobQueueStatus"]
            yield {
                "model": archive.name,
                "version": archive.version,
                "default": archive.version == defaults[archive.name],
                "health": failures.get(archive.address, "ok"),
                "workers": len(described["workers"]),
                "ready": sum(worker["status"] == "READY" for worker in described["workers"]),
                "queued": queue["pendingRequests"],
                "queue": queue["pendingRequests"] + queue["remainingCapacity"],
                "batch": described["batchSize"],
            }

    def drain(self, seconds: float) -> bool:
        """Drain the server from outside; whether all accepted requests were answered within `seconds`."""
        lock = DrainLock(str(self.folder / "gate"))
        try:
            return drain(lock, self.management, time.monotonic() + seconds)
        finally:
            lock.close()


def stop(folder: Path, seconds: float, now: bool) -> bool:
    """End the server in the folder, after draining it for up to `seconds` unless `now`; whether there was one.

    A `serve` command that still runs is asked to drain and end its server itself; what is left after that is ended.
    """
    command = _command(folder) or _parent(folder)
    if command is not None and now:
        command.kill()
    elif command is not None:
        command.terminate()
        _wait(command, seconds + GRACE)
    elif not now and folders.processes(folder):
        with contextlib.suppress(HostError, OSError):  # a server whose files are gone cannot be drained, and must be ended
            RunningServer.of(folder).drain(seconds)
    return folders.stop(folder) or command is not None


def _wait(process: psutil.Process, seconds: float) -> None:
    """Wait until the process has ended; psutil would also wait until its parent has taken note of it, which may be never."""
    end = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
            time.sleep(POLL)


def record_command(folder: Path) -> None:
    """Write down that this process serves the folder, for `stop`."""
    process = psutil.Process()
    folders.private_file(folder / COMMAND, json.dumps({"pid": process.pid, "started": process.create_time()}))


def _command(folder: Path) -> psutil.Process | None:
    """Return the process of the `serve` command that was started in the folder last, if it lives."""
    try:
        document = json.loads((folder / COMMAND).read_text())
        process = psutil.Process(int(document["pid"]))
        return process if process.create_time() == document["started"] else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def _parent(folder: Path) -> psutil.Process | None:
    """Return the `serve` command that started the server in the folder, where its record is gone, if it lives."""
    for process in folders.processes(folder):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            words = [] if parent is None else [Path(word).name for word in parent.cmdline()]
            if "serve" in words and {"host", "cellstate"} & set(words[: words.index("serve")]):
                return parent
    return None
