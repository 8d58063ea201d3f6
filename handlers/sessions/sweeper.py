"""Cleaning up between requests: what is past its time is removed, slice by slice, and counted on the way.

A slice that finds much is followed by the next one soon, so that the sweep keeps pace with sessions that expire together; one that takes
long, or fails, is followed late: the sweep never has more than about a tenth of a worker's time. It knows stores, and of records only
whether one was closed.
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
SHARE = 9  # pauses are this many times as long as the slice before them
MUCH = 0.1  # of a slice's entries, removed


class Sweeper:
    """One worker's. `now` is seconds since the epoch, as the service's clock has it; `watch` tells how long a slice takes."""

    def __init__(
        self, store: Store, settings: Settings, telemetry: Telemetry, now: float, watch: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._settings, self._telemetry, self._watch = store, settings, telemetry, watch
        self._swept, self._pause = now, settings.sweep_interval
        self._live, self._ended = 0, 0

    def run_if_due(self, now: float) -> None:
        """One slice, now and then. A store that is away is the requests' news, not the sweep's."""
        if 0 <= now - self._swept < self._pause:  # a clock that was set back does not stop it
            return
        began = self._watch()
        removed = self._slice(now)
        took = self._watch() - began
        least = 0.0 if removed >= MUCH * self._settings.sweep_slice else self._settings.sweep_interval
        self._swept, self._pause = now, took + max(least, SHARE * took)

    def _slice(self, now: float) -> int:
        """How many it removed."""
        try:
            swept = self._store.sweep(now, self._settings.sweep_slice)
        except StoreUnavailable as e:
            self._telemetry.count("store_errors_total", 1, "sweep")
            log.warning("sweep_failed %s", e.message)
            return 0
        self._tell(swept, now)
        return len(swept.removed)

    def _tell(self, swept: Swept, now: float) -> None:
        """An entry may be forgotten a tombstone's time after its session expires, or was closed."""
        self._telemetry.count("sessions_expired_total", sum(not was_closed(head) for head in swept.removed))
        live = sum(purge_at - self._settings.tombstone_ttl >= now for purge_at in swept.kept)
        self._live, self._ended = self._live + live, self._ended + len(swept.kept) - live
        if swept.ends_round:
            self._telemetry.set("sessions", self._live, "live")
            self._telemetry.set("sessions", self._ended, "ended")
            self._live, self._ended = 0, 0
