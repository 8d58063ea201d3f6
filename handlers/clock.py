"""A wall clock that does not follow a jump until the jump has lasted.

Expiry is decided by the wall clock. One request that is served while the clock is days ahead would otherwise let the sweep delete every
session of the embedded store.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger("cellstate")
TOLERANCE = 60.0  # seconds; smaller corrections, as NTP makes them, are followed at once


def uptime() -> float:
    """Return the seconds since the machine started, including those for which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockGuard:
    """Return seconds since the epoch when called: those of `wall` while it advances with `elapsed`.

    When `wall` jumps by more than `TOLERANCE`, time goes on from before the jump by `elapsed`; `on_jump` is called, and the jump logged.
    A jump that has lasted `confirm_after` seconds is followed, and so is a jump back to the time from before. One thread may use a guard.
    """

    def __init__(
        self,
        confirm_after: float,
        on_jump: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = uptime,
    ) -> None:
        self._confirm_after, self._on_jump, self._wall, self._elapsed = confirm_after, on_jump, wall, elapsed
        self._offset = wall() - elapsed()  # of the time that is believed
        self._doubted: tuple[float, float] | None = None  # the offset after a jump, and when it was first seen

    def __call__(self) -> float:
        wall, elapsed = self._wall(), self._elapsed()
        offset = wall - elapsed
        if abs(offset - self._offset) > TOLERANCE and not self._is_confirmed(offset, elapsed):
            return elapsed + self._offset
        self._offset, self._doubted = offset, None
        return wall

    def _is_confirmed(self, offset: float, elapsed: float) -> bool:
        """Return whether the wall clock has kept this offset for `confirm_after` seconds."""
        if self._doubted is None or abs(offset - self._doubted[0]) > TOLERANCE:
            self._doubted = offset, elapsed
            log.error("clock_jumped by %+.0f s; expiry follows in %.0f s unless it is set back", offset - self._offset, self._confirm_after)
            self._on_jump()
        confirmed = elapsed - self._doubted[1] >= self._confirm_after
        if confirmed:
            log.warning("clock_jump_confirmed of %+.0f s", offset - self._offset)
        return confirmed
