"""The open files of a server: each connection of a client is one of its Java process, and without any left nobody is answered."""

import contextlib
import resource
from dataclasses import dataclass

import psutil

FEW_LEFT = 0.8  # of the limit in use, from which on it is reported
ALL_BUT = 8  # left: with so few neither a connection nor a worker may be had


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """How many files a process has open, and how many it may have."""

    used: int
    limit: int

    @classmethod
    def of(cls, pid: int) -> "OpenFiles | None":
        """Return those of a process; None for one that has ended, or is another user's."""
        try:
            process = psutil.Process(pid)
            return cls(process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)[0])
        except (psutil.Error, OSError):
            return None

    @property
    def few_left(self) -> bool:
        return self.used >= FEW_LEFT * self.limit

    @property
    def exhausted(self) -> bool:
        return self.used >= self.limit - ALL_BUT

    def __str__(self) -> str:
        return f"{self.used} of {self.limit} open files in use"

    def exposition(self) -> str:
        """Return the two gauges as Prometheus text."""
        gauges = (("cellstate_open_files", self.used), ("cellstate_open_files_limit", self.limit))
        return "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges)


def raise_limit() -> None:
    """Raise this process's limit, which its children inherit, as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # where the system allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
