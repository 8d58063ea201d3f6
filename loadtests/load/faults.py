"""Do harm to a deployment at given moments of a run: a TOML file of faults, carried out one after the other.

Faults by name need the server that `python -m loadtests` started itself; `run` carries out any command.
"""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import httpx

from host.ports import HostError
from host.torchserve.launcher import TorchServe
from loadtests.load.result import Event

ACTIONS = ("stop worker", "kill worker", "stop server", "kill server", "scale workers", "deploy", "run")
FOUND_WITHIN = 30.0  # seconds in which a worker to harm must be there


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do: `at` seconds after the start of the load, for `seconds` where it has a length.

    `archive` is what `python -m host deploy` takes: a file, or a version that the server's store holds.
    """

    at: float
    do: str
    seconds: float = 0.0
    workers: int = 0
    command: str = ""
    archive: str = ""

    def __str__(self) -> str:
        more = {"scale workers": f" to {self.workers}", "deploy": f" {self.archive}", "run": f": {self.command}"}.get(self.do, "")
        return f"{self.do}{more}" + (f" for {self.seconds:g} s" if self.seconds else "")


def read(path: Path) -> list[Fault]:
    """Read `[[fault]]` tables, in the order of their time.

    Raises:
        ValueError: not TOML, or a fault that does not exist.
        OSError: the file cannot be read.
    """
    tables = tomllib.loads(path.read_text()).get("fault", [])
    try:
        faults = [Fault(**table) for table in tables]
    except TypeError as e:
        raise ValueError(f"{path}: a fault has `at`, `do`, and `seconds`, `workers`, `archive` or `command`: {e}") from e
    for fault in faults:
        if fault.do not in ACTIONS:
            raise ValueError(f"{path}: no fault {fault.do!r}; there are {', '.join(ACTIONS)}")
        if fault.do == "run" and not fault.command:
            raise ValueError(f"{path}: `run` needs a `command`")
        if fault.do == "deploy" and not fault.archive:
            raise ValueError(f"{path}: `deploy` needs an `archive`, a file or a version of the store such as meter:2.0")
    return sorted(faults, key=lambda fault: fault.at)


class Faults:
    """Carries faults out in a thread of its own, and remembers when each began and ended."""

    def __init__(self, faults: Sequence[Fault], server: TorchServe | None, model: str, seed: int = 0) -> None:
        self._faults, self._server, self._model, self._draw = faults, server, model, random.Random(seed)
        self._stop = Flag()
        self._thread: Thread | None = None
        self.events: list[Event] = []
        if server is None and any(fault.do != "run" for fault in faults):
            raise ValueError("faults: a server that was started elsewhere can only be harmed by `run`")

    def start(self, started: float) -> None:
        """Begin: `started` is the epoch time of the start of the load."""
        self._thread = Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave out what has not been done, and wait for what is being done."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, started: float) -> None:
        for fault in self._faults:
            if self._stop.wait(max(0.0, started + fault.at - time.time())):
                return
            began = time.time() - started
            try:
                self._carry_out(fault)
                what = str(fault)
            except (OSError, LookupError, HostError, httpx.HTTPError, subprocess.CalledProcessError) as e:
                what = f"{fault}: not done ({e})"
            self.events.append(Event(began, time.time() - started, what))

    def _carry_out(self, fault: Fault) -> None:
        if fault.do == "run":
            subprocess.run(shlex.split(fault.command), check=True, stdin=subprocess.DEVNULL)
            return
        assert self._server is not None  # refused when made
        actions: dict[str, Callable[[TorchServe], None]] = {
            "stop worker": lambda server: self._halt(self._worker(server), fault.seconds),
            "kill worker": lambda server: os.kill(self._worker(server), signal.SIGKILL),
            "stop server": lambda server: self._halt(self._group(server), fault.seconds, os.killpg),
            "kill server": lambda server: self._restart(server, fault.seconds),
            "scale workers": lambda server: self._scale(server, fault.workers),
            "deploy": lambda server: self._deploy(server, fault.archive),
        }
        actions[fault.do](self._server)

    def _halt(self, pid: int, seconds: float, kill: Callable[[int, int], None] = os.kill) -> None:
        """Stop a process, or a group, and let it go on after a while."""
        kill(pid, signal.SIGSTOP)
        try:
            self._stop.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGCONT)

    def _restart(self, server: TorchServe, seconds: float) -> None:
        server.kill()
        self._stop.wait(seconds)
        server.start()

    def _scale(self, server: TorchServe, workers: int) -> None:
        server.management.scale(self._model, workers)

    def _deploy(self, server: TorchServe, archive: str) -> None:
        command = [sys.executable, "-m", "host", "deploy", archive, "--server", str(server.folder)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostError(done.stderr.strip())

    def _worker(self, server: TorchServe) -> int:
        """Return the process id of one of the server's own workers."""
        end = time.monotonic() + FOUND_WITHIN
        while time.monotonic() < end and not self._stop.is_set():
            with suppress(HostError, KeyError, ValueError, ProcessLookupError):
                pid = self._draw.choice(server.worker_pids(self._model))
                if pid > 0 and os.getpgid(pid) == self._group(server):
                    return pid
            self._stop.wait(0.1)
        raise LookupError("no worker was found")

    def _group(self, server: TorchServe) -> int:
        if server.process is None:
            raise LookupError("the server is not running")
        return server.process.pid
