"""The folder of a server: it belongs to one server at a time, for as long as one of that server's processes lives."""

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from host.ports import HostError

ENDING = 5.0  # seconds that processes which were just killed may take to be gone
POLL = 0.05
LOGS_KEPT = 5  # as many as config/log4j2.xml keeps


def take(folder: Path) -> int:
    """Lock the folder and return the lock's descriptor. Raises HostError while another server has it: two would share their sockets."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _are_gone(folder, ENDING)
    except BlockingIOError:
        free = False
    if not free:
        os.close(lock)
        raise HostError(f"{folder} is being served already; stop that server (python -m host stop --folder …), or use another folder")
    return lock


def processes(folder: Path) -> list[psutil.Process]:
    """Return the processes of the server in the folder: Java and the workers, known by the temporary folder in their environment."""
    temporary = str(folder.resolve() / "tmp")
    return [process for process in psutil.process_iter() if _temporary_folder(process) == temporary]


def stop(folder: Path) -> bool:
    """End those processes, with SIGTERM and then with SIGKILL; whether there were any."""
    found = processes(folder)
    if not found:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if _are_gone(folder, 2 * ENDING):
            break
    return True


def private_file(path: Path, text: str = "") -> Path:
    """Write `text` to a file that only its owner can read, and return its path. Raises OSError, which names the file."""
    path.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e
    return path


def rotate(log: Path) -> None:
    """Rename a log to `….1`, the one of that name to `….2`, and so on, as log4j does while the server runs."""
    for number in range(LOGS_KEPT - 1, -1, -1):
        older = log.with_name(f"{log.name}.{number}") if number else log
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))


def _are_gone(folder: Path, seconds: float) -> bool:
    """Wait until no process of the server is left; False when some are left after `seconds`."""
    end = time.monotonic() + seconds
    while left := processes(folder):
        if time.monotonic() > end:
            return False
        psutil.wait_procs(left, POLL)
    return True


def _temporary_folder(process: psutil.Process) -> str | None:
    """The variable TEMP of a process; None for one that has ended or belongs to another user."""
    try:
        return process.environ().get("TEMP") if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, OSError):
        return None
