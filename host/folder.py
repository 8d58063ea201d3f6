"""Whose a server's folder is: one server's at a time, for as long as one of its processes lives.

`server.json` names the process group that was started last. A group outlives its leader: kill the launcher, and Java and the workers go on.
"""

import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from host.ports import HostError

DYING = 5.0  # seconds that processes which were just killed may take to be gone
POLL = 0.05


def take(folder: Path) -> int:
    """Lock the folder; the lock is the descriptor. Raises HostError while another server has it: two would share tokens and gate."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _gone(folder, DYING)
    except BlockingIOError:
        free = False
    if not free:
        os.close(lock)
        raise HostError(f"{folder} is being served already; stop that server (python -m host stop --folder …), or use another folder")
    return lock


def processes(folder: Path) -> list[psutil.Process]:
    """What lives of the server that was started in the folder last."""
    try:
        group = int(json.loads((folder / "server.json").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return []
    members = [process for process in psutil.process_iter() if _group(process) == group]
    return members if any(_works_in(process, folder.resolve()) for process in members) else []


def stop(folder: Path) -> bool:
    """End those processes, at once if need be; whether there were any."""
    found = processes(folder)
    if not found:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if _gone(folder, 2 * DYING):
            break
    return True


def _gone(folder: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while left := processes(folder):
        if time.monotonic() > end:
            return False
        psutil.wait_procs(left, POLL)
    return True


def _group(process: psutil.Process) -> int | None:
    """Its process group; None when it is over."""
    try:
        return os.getpgid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None


def _works_in(process: psutil.Process, folder: Path) -> bool:
    """A number may have been given to a stranger since."""
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.NoSuchProcess:
        return True  # it is ending, and may hold its ports a moment longer
    except psutil.AccessDenied:
        return False
