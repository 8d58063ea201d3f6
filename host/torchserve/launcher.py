"""Start and stop one TorchServe: private folder, free ports, ready when it answers predictions, drained before it is stopped.

All processes of a server are in one process group, which is ended by its number. Facts about TorchServe: docs/torchserve.md.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from handlers.engine.drain import DrainLock
from handlers.keys import Caller, KeyRing, digest, generate
from host.answers import Answers
from host.archives import Archive, find, refuse_split_memory
from host.deployed import Deployed
from host.description import Description
from host.folder import private_file, rotate, take
from host.keys import make_first
from host.metrics import MetricsServer
from host.model_folder import ModelFolder
from host.open_files import OpenFiles
from host.ports import HostError, Ports, reachable
from host.torchserve import configuration, process
from host.torchserve.configuration import Addresses
from host.torchserve.drain import drain
from host.torchserve.management import DEAD, Management, failure

POLL = 0.1  # seconds between two looks while waiting


@dataclass
class TorchServe:
    """A server over the archives in `store`. `folder` is its own: configuration, log, keys, temporary files, and the sessions.

    `logs` is the folder of the log, by default `folder`; `console`, "text" or "json", writes the log to standard output, too. `keys` is the
    key file, by default one in `folder`; a launch makes it when it is missing. Without `authenticate` everybody may send requests.
    `model_options` replace values of the archives' model configuration, such as `batchSize`. `skipped` is told of archives that cannot be
    read and are left out; without it they raise HostError. `archives` are those that are served: those of the store but for the retired
    ones, until something is deployed.
    """

    folder: Path
    store: Path
    address: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports.free)
    metrics_address: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=dict)
    logs: Path | None = None
    keys: Path | None = None
    authenticate: bool = True
    model_options: Mapping[str, int] = field(default_factory=dict)
    queue_size: int | None = None
    console: str = ""
    skipped: Callable[[str], None] | None = None
    process: subprocess.Popen[bytes] | None = None
    archives: list[Archive] = field(init=False)
    management: Management = field(init=False)
    _lock: DrainLock = field(init=False, repr=False)
    _host_key: str = field(init=False, repr=False)  # with which this process asks the server
    _deployed: Deployed = field(init=False, repr=False)
    _models: ModelFolder = field(init=False, repr=False)
    _models_seen: int = field(init=False, repr=False)  # when the folder of the models had changed at the last look
    _metrics: MetricsServer | None = field(init=False, repr=False, default=None)
    _answers: Answers = field(init=False, repr=False, default_factory=Answers)

    def __post_init__(self) -> None:
        self._read_store()
        self._models, self._models_seen = ModelFolder(self.folder / "models", self.model_options), 0
        self._host_key = generate(Caller("host"), 0.0)[0]
        self.management = Management(self.management_socket, self.headers())
        self._lock = DrainLock("")

    def _read_store(self) -> None:
        self._deployed = Deployed.read(self.folder)
        self.archives = self._deployed.served(find(self.store, self.skipped, with_keys=self.authenticate))

    @property
    def _addresses(self) -> Addresses:
        return Addresses(self.address, self.ports, self.folder)

    @property
    def key_file(self) -> Path:
        """The hashes of the API keys."""
        return self.keys or self.folder / "keys.json"

    @property
    def first_key(self) -> Path:
        """The file with the key that was made by the first launch, where that launch made the key file."""
        return self.folder / "key"

    @property
    def url(self) -> str:
        """The URL at which this machine reaches the server."""
        return f"http://{reachable(self.address)}:{self.ports.inference}"

    @property
    def management_socket(self) -> Path:
        """Where this user, and nobody else, reaches TorchServe's management API."""
        return self._addresses.management

    @property
    def metrics_url(self) -> str:
        return f"http://{reachable(self.metrics_address)}:{self.ports.metrics}/metrics"

    @property
    def log(self) -> Path:
        return (self.logs or self.folder) / "server.log"

    @property
    def sessions(self) -> str:
        """The store's URL: the operator's, else a folder of this server's own."""
        chosen = self.environment.get("CELLSTATE_STORE") or os.environ.get("CELLSTATE_STORE")
        return chosen or f"lmdb://{self.folder / 'sessions'}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # Asking the server.

    def headers(self) -> dict[str, str]:
        """The headers with which this process may send every request to the server."""
        return {"Authorization": f"Bearer {self._host_key}"} if self.authenticate else {}

    def describe(self, model: str) -> dict[str, Any]:
        """TorchServe's description of a model: workers with their process ids, and the state of its queue."""
        return self.management.describe(model)

    def failure(self, archive: Archive) -> str | None:
        """Why a model does not answer a request that needs the session store; None when it does. Raises HostError."""
        return self._answers.note(archive, lambda: self._ask(archive))

    def _ask(self, archive: Archive) -> str | None:
        ready = self.management.has_ready_worker(archive.address)
        return failure(self.url, archive.address, archive.health_check(), self.headers()) if ready else DEAD

    def open_files(self) -> OpenFiles | None:
        """The open files of the Java process; None when it has ended."""
        return None if self.process is None else OpenFiles.of(self.process.pid)

    def is_idle(self, archive: Archive) -> bool:
        return self.management.queue_is_empty(archive.address)

    def restart_workers(self, archive: Archive) -> None:
        self.management.restart_workers(archive.address)

    def worker_pids(self, model: str) -> list[int]:
        return [int(worker["pid"]) for worker in self.describe(model)["workers"]]

    def refresh(self) -> None:
        """Look again which models are served, which `python -m host deploy` and `retire` change. What cannot be read changes nothing."""
        changed_at = self._models.changed_at
        if changed_at not in (0, self._models_seen):
            with contextlib.suppress(HostError, OSError):
                self.archives, self._models_seen = self._models.archives(), changed_at

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
        """Start without waiting. Raises HostError when the folder or a port is taken."""
        for name in ("", "tmp", "sessions", "models"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._addresses.refuse_long()
        lock = take(self.folder)
        try:
            self.ports.refuse_taken()
            self._prepare_folder()
            self._metrics = self._serve_metrics()
            if self._models_seen:  # this is not the first launch
                self._read_store()
            self.archives, self._models_seen = self._models.fill(self.archives), self._models.changed_at
            refuse_split_memory(self.archives, self.sessions)
            self.process = self._run(lock)
            self._description(self.process.pid).write(self.folder)
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(lock)  # Java holds it from now on

    def _prepare_folder(self) -> None:
        (self.folder / "gate").unlink(missing_ok=True)
        if self.authenticate:
            make_first(self.key_file, self.first_key)
        rotate(self.log)  # the last one may say why its server ended
        queue = {} if self.queue_size is None else {"job_queue_size": str(self.queue_size)}
        private_file(self.folder / "config.properties", configuration.properties(self._addresses, self._models.path, queue))
        self._lock.close()
        self._lock = DrainLock(str(self.folder / "gate"))  # opened before the workers open it, so that its file can be deleted

    def _serve_metrics(self) -> MetricsServer:
        keys = KeyRing(self.key_file, digest(self._host_key)) if self.authenticate else None
        return MetricsServer((self.metrics_address, self.ports.metrics), self._addresses.metrics, keys, self._metrics_of_its_own)

    def _metrics_of_its_own(self) -> str:
        files = self.open_files()
        return (files.exposition() if files else "") + self._answers.exposition(self.archives)

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _key_settings(self) -> dict[str, str]:
        """The workers' settings by which requests need keys; none without keys, which archives of earlier releases do not know."""
        if not self.authenticate:
            return {}
        return {"CELLSTATE_KEY_FILE": str(self.key_file), "CELLSTATE_HOST_KEY_SHA256": digest(self._host_key).hex()}

    def _run(self, lock: int) -> subprocess.Popen[bytes]:
        defaults = self._deployed.default_versions(self.archives)  # first: until told, TorchServe makes the first of a model its default
        archives = [*defaults, *(archive for archive in self.archives if archive not in defaults)]
        command = configuration.command(self.folder, self._models.path, archives, self.console)
        environment = configuration.environment(self.folder, self.log.parent, self.sessions, self._key_settings(), self.environment)
        return process.start(self.folder, command, environment, lock, bool(self.console))

    def _description(self, pid: int, ready: bool = False) -> Description:
        store, options, log = str(self.store), dict(self.model_options), str(self.log)
        return Description(
            self.url, str(self.management_socket), self.metrics_url, self.headers(), self.sessions, store, options, log, pid, ready
        )

    def wait_ready(self, deadline: float = 120.0, stopping: Event | None = None) -> None:
        """Wait until every model is ready. Raises HostError after `deadline` seconds, when TorchServe ends or when a worker refuses."""
        end = time.monotonic() + deadline
        waiting = self.archives
        while waiting := [archive for archive in waiting if not self.management.is_ready(self.url, archive)]:
            if not self.running:
                raise HostError(f"TorchServe ended by itself\n{self.log_tail()}")
            if (refusal := self._refusal()) is not None:
                raise HostError(refusal)
            if stopping is not None and stopping.is_set():
                raise HostError("stopped before it was ready")
            if time.monotonic() > end:
                raise HostError(f"{waiting[0].address} did not answer within {deadline:.0f} s\n{self.log_tail()}")
            time.sleep(POLL)
        for archive in self._deployed.default_versions(self.archives):
            self.management.set_default(archive)
        if self.process is not None:
            self._description(self.process.pid, ready=True).write(self.folder)

    def _refusal(self) -> str | None:
        """The line in which a worker said why it refused to start: TorchServe would start it again for minutes."""
        return next((line for line in self.log_tail(200).splitlines() if "refused_to_start" in line), None)

    def log_tail(self, lines: int = 25) -> str:
        """Return the last lines of the log; what Java itself printed stands for a log that is empty or gone."""
        for log in (self.log, self.folder / "console.log"):
            with contextlib.suppress(OSError):
                if last := log.read_text(errors="replace").splitlines()[-lines:]:
                    return "\n".join(last)
        return ""

    # Stop.

    def stop(self, drain: float = 20.0) -> bool:
        """Drain for up to `drain` seconds and end the server, whatever fails; whether all accepted requests were answered."""
        try:
            return self.running and self.drain(drain)
        finally:
            if self.process is not None:
                process.terminate(self.process)
            self.kill()

    def drain(self, seconds: float) -> bool:
        """Refuse new requests and wait for those accepted before; whether all were answered within `seconds`."""
        return drain(self._lock, self.management, time.monotonic() + seconds)

    def kill(self) -> None:
        """Send SIGKILL to the process group that `launch` made, and remove its temporary files."""
        self._close_metrics()
        if self.process is None:
            return
        process.kill(self.process)
        self.process = None
        self._lock.close()
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)


@contextlib.contextmanager
def serving(folder: Path, store: Path, **options: Any) -> Iterator[TorchServe]:
    """A running server for a `with` block."""
    server = TorchServe(folder, store, **options).start()
    try:
        yield server
    finally:
        server.stop()
