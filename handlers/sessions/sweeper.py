"""Remove expired sessions between requests, slice by slice, and count the sessions on the way.

A slice that removes much is followed by the next one at once, so that the sweep keeps pace with sessions that expire together. A slice that
takes long, or fails, is followed late: the sweep never takes more than about a tenth of a worker's time.
"""

import logging
import time
from collections.abc import Callable

from handlers.errors import StoreUnavailable
from handlers.metrics import Telemetry
from handlers.sessions.record import was_closed
from handlers.settings import Settings
from handlers.stores.base import Store, Swept

log = logging.getLogger("cellstate")
PAUSE_FACTOR = 9  # a pause is at least this many times as long as the slice before it
BUSY_FRACTION = 0.1  # of a slice's entries removed: the next slice follows at once


class Sweeper:
    """The sweep of one worker, for one thread. `now` is seconds since the epoch; `timer` measures how long a slice takes."""

    def __init__(
        self, store: Store, settings: Settings, telemetry: Telemetry, now: float, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._settings, self._telemetry, self._timer = store, settings, telemetry, timer
        self._swept_at, self._pause = now, settings.sweep_interval
        self._live, self._ended = 0, 0

    def run_if_due(self, now: float) -> None:
        """Sweep one slice when the pause after the last one is over. A failure of the store is logged and counted, not raised."""
        if 0 <= now - self._swept_at < self._pause:  # a clock that was set back does not stop the sweep
            return
        started = self._timer()
        removed = self._sweep(now)
        took = self._timer() - started
        min_pause = 0.0 if removed >= BUSY_FRACTION * self._settings.sweep_slice else self._settings.sweep_interval
        self._swept_at, self._pause = now, took + max(min_pause, PAUSE_FACTOR * took)

    def _sweep(self, now: float) -> int:
        """Sweep one slice; return how many entries were removed."""
        try:
            swept = self._store.sweep(now, self._settings.sweep_slice)
        except StoreUnavailable as e:
            self._telemetry.count("store_errors_total", 1, "sweep")
            log.warning("sweep_failed %s", e.message)
            return 0
        self._record_metrics(swept, now)
        return len(swept.removed)

    def _record_metrics(self, swept: Swept, now: float) -> None:
        """Count removed and remaining sessions. An entry's `purge_at` is `tombstone_ttl` after its session expires or was closed."""
        self._telemetry.count("sessions_expired_total", sum(not was_closed(head) for head in swept.removed))
        live = sum(purge_at - self._settings.tombstone_ttl >= now for purge_at in swept.kept)
        self._live, self._ended = self._live + live, self._ended + len(swept.kept) - live
        if swept.ends_round:
            self._telemetry.set("sessions", self._live, "live")
            self._telemetry.set("sessions", self._ended, "ended")
            self._live, self._ended = 0, 0
