"""A server that runs already, known by the folder that it was started in: its health, its status, and its end."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from handlers.engine.drain import DrainLock
from host import folder as folders
from host.ports import HostError
from host.torchserve.drain import drain
from host.torchserve.management import Management, failure

GRACE = 30.0  # seconds beyond its drain that `serve` may take to end the server
COMMAND = "serve.json"


@dataclass(frozen=True)
class RunningServer:
    """The server that was started in `folder` last."""

    folder: Path
    document: Mapping[str, Any]  # what the launcher wrote into server.json
    management: Management

    @classmethod
    def of(cls, folder: Path) -> "RunningServer":
        """Raises HostError when no server was started in the folder, or its description is gone."""
        try:
            document = json.loads((folder / "server.json").read_text())
            return cls(folder, document, Management(Path(document["management"]), document["headers"]))
        except (OSError, ValueError, KeyError) as e:
            raise HostError(f"no server was started in {folder}, or its server.json is gone ({e})") from e

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """`name/version` of each model, and a request that checks its health."""
        return dict(self.document["models"])

    def failures(self) -> dict[str, str]:
        """Return why each model that does not answer does not."""
        headers = dict(self.document["headers"])
        found = ((model, failure(str(self.document["url"]), model, request, headers)) for model, request in self.models.items())
        return {model: reason for model, reason in found if reason is not None}

    def status(self) -> dict[str, Any]:
        """Return addresses, process, uptime in seconds, and the state of every model. Raises HostError when TorchServe does not answer."""
        try:
            started = psutil.Process(int(self.document["pid"])).create_time()
            names = ("url", "management", "metrics", "sessions", "pid")
            models = list(self._model_states())
        except psutil.Error as e:
            raise HostError(f"the server in {self.folder} has ended") from e
        return {name: self.document[name] for name in names} | {"uptime": round(time.time() - started), "models": models}

    def _model_states(self) -> Iterator[dict[str, Any]]:
        failures = self.failures()
        defaults = {name: self.management.describe(name)["modelVersion"] for name in {model.partition("/")[0] for model in self.models}}
        for model in self.models:
            name, _, version = model.partition("/")
            described = self.management.describe(model)
            queue = described["jobQueueStatus"]
            yield {
                "model": name,
                "version": version,
                "default": version == defaults[name],
                "health": failures.get(model, "ok"),
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
            return drain(lock, self.management, list(self.models), time.monotonic() + seconds)
        finally:
            lock.close()


def stop(folder: Path, seconds: float, now: bool) -> bool:
    """End the server in the folder, after draining it for up to `seconds` unless `now`; whether there was one.

    A `serve` command that still runs is asked to drain and end its server itself; what is left after that is ended.
    """
    command = _command(folder)
    if command is not None and now:
        command.kill()
    elif command is not None:
        command.terminate()
        psutil.wait_procs([command], seconds + GRACE)
    elif not now and folders.processes(folder):
        with contextlib.suppress(HostError, OSError):  # a server whose files are gone cannot be drained, and must be ended
            RunningServer.of(folder).drain(seconds)
    return folders.stop(folder) or command is not None


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
