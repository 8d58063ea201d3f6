"""The Java process of a TorchServe: started in a process group of its own, with its workers, and ended as a group by its number."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from host.folder import private_file

PRIVATE = 0o077  # umask of the server: its files are its user's alone
STDOUT = 1  # the descriptor
TERMINATION = 10.0  # seconds that Java may take to end after SIGTERM


def start(folder: Path, command: Sequence[str], environment: Mapping[str, str], lock: int, to_stdout: bool) -> subprocess.Popen[bytes]:
    """Start Java in `folder`, where it keeps the descriptor `lock` open.

    What Java prints goes to console.log. With `to_stdout` its standard error, to which config/log4j2.xml writes the log, is this process's
    standard output.
    """
    with open(private_file(folder / "console.log"), "ab") as console:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=STDOUT if to_stdout else console,
            start_new_session=True,
            pass_fds=[lock],
            umask=PRIVATE,
        )


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Ask Java to end; it ends its workers."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERMINATION)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to Java and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(TERMINATION)


def in_container(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> bool:
    """Return whether this process runs in a container, whose standard output is its log."""
    marked = (root / ".dockerenv").exists() or (root / "run" / ".containerenv").exists()
    return marked or "KUBERNETES_SERVICE_HOST" in environment or "container" in environment
