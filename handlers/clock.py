"""A wall clock that does not follow a jump until the jump has lasted.

Expiry is decided by the wall clock. One request that is served while the clock is days ahead would otherwise let the sweep delete every
session of the embedded store.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("cellstate")
TOLERANCE = 60.0  # seconds; smaller corrections, as NTP makes them, are followed at once
MAX_SKEW = 300.0  # seconds between the clocks of two machines that agree
BOOT = Path("/proc/sys/kernel/random/boot_id")


def uptime() -> float:
    """Return the seconds since the machine started, including those for which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockGuard:
    """Return seconds since the epoch when called: those of `wall` while it advances with `elapsed`.

    When `wall` jumps by more than `TOLERANCE`, time goes on from before the jump by `elapsed`; `on_jump` is called, and the jump logged.
    A jump that has lasted `confirm_after` seconds is followed, and so is a jump back to the time from before. One thread may use a guard.

    The clock of another machine is a `witness`: where the wall clock agrees with it, a jump is followed at once, and where the time that is
    believed does, a jump is not followed for as long as there is a witness.

    `reference` is a file that keeps the difference of the two clocks: a guard that is made later in the same uptime of the machine finds
    there which time was believed, so that a worker that starts while the clock is wrong does not believe it either.
    """

    def __init__(
        self,
        confirm_after: float,
        on_jump: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = uptime,
        reference: Path | None = None,
    ) -> None:
        self._confirm_after, self._on_jump, self._wall, self._elapsed = confirm_after, on_jump, wall, elapsed
        self._reference = reference
        offset, kept = wall() - elapsed(), _read(reference)
        self._offset = offset if kept is None else kept  # of the time that is believed
        self._doubted: tuple[float, float] | None = None  # the offset after a jump, and when it was first seen
        if kept is None:
            _write(reference, offset)

    def __call__(self) -> float:
        wall, elapsed = self._wall(), self._elapsed()
        offset = wall - elapsed
        if abs(offset - self._offset) > TOLERANCE:
            if not self._is_confirmed(offset, elapsed):
                return elapsed + self._offset
            self._follow(offset)
        self._offset, self._doubted = offset, None
        return wall

    def latest(self) -> float:
        """Return the later of the time that is believed and the wall clock's, by which no session expires too early."""
        return max(self(), self._wall())

    def witness(self, seconds: float) -> None:
        """Another machine's clock says that it is `seconds` since the epoch."""
        wall, elapsed = self._wall(), self._elapsed()
        offset = wall - elapsed
        if abs(offset - self._offset) <= TOLERANCE:
            return
        if abs(wall - seconds) <= MAX_SKEW:
            self._follow(offset)
        elif self._doubted is not None and abs(elapsed + self._offset - seconds) <= MAX_SKEW:
            self._doubted = self._doubted[0], elapsed

    def _follow(self, offset: float) -> None:
        log.warning("clock_jump_confirmed of %+.0f s", offset - self._offset)
        self._offset, self._doubted = offset, None
        _write(self._reference, offset)

    def _is_confirmed(self, offset: float, elapsed: float) -> bool:
        """Return whether the wall clock has kept this offset for `confirm_after` seconds."""
        if self._doubted is None or abs(offset - self._doubted[0]) > TOLERANCE:
            self._doubted = offset, elapsed
            log.error("clock_jumped by %+.0f s; expiry follows in %.0f s unless it is set back", offset - self._offset, self._confirm_after)
            self._on_jump()
        return elapsed - self._doubted[1] >= self._confirm_after


def _read(reference: Path | None) -> float | None:
    """Return the offset that was written in this uptime of the machine, if there is one."""
    try:
        document = json.loads(reference.read_text()) if reference else {}
        return float(document["offset"]) if document.get("boot") == BOOT.read_text() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(reference: Path | None, offset: float) -> None:
    """Write the offset; where that is not possible, a worker that starts believes the clock."""
    if reference is None:
        return
    try:
        reference.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        reference.write_text(json.dumps({"boot": BOOT.read_text(), "offset": offset}))
    except OSError as e:
        log.warning("clock_reference_not_written %s", e)
