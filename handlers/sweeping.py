"""Cleaning up between requests: what is past its time is removed, slice by slice, and counted on the way.

A slice that finds much is followed by the next one soon, so that the sweep keeps pace with sessions that expire together; it never takes
more than about a tenth of a worker's time. It knows stores and, of records, only whether one was closed.
"""

import logging
import time

from handlers.errors import StoreUnavailable
from handlers.records import was_closed
from handlers.settings import Settings
from handlers.stores import Store, Swept
from handlers.telemetry import Telemetry

log = logging.getLogger("cellstate")
SHARE = 9  # pauses are this many times as long as the slice before them
MUCH = 0.1  # of a slice's entries, removed


class Sweeper:
    """One worker's. `now` is seconds since the epoch, as the service's clock has it."""

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry, now: float) -> None:
        self._store, self._settings, self._telemetry = store, settings, telemetry
        self._swept, self._pause = now, settings.sweep_interval
        self._live, self._ended = 0, 0

    def run_if_due(self, now: float) -> None:
        """One slice, now and then. A store that is away is the requests' news, not the sweep's."""
        if 0 <= now - self._swept < self._pause:  # a clock that was set back does not stop it
            return
        began = time.monotonic()
        self._swept, self._pause = now, self._settings.sweep_interval
        try:
            swept = self._store.sweep(now, self._settings.sweep_slice)
        except StoreUnavailable as e:
            self._telemetry.count("store_errors_total", 1, "sweep")
            log.warning("sweep_failed %s", e.message)
            return
        self._tell(swept, now)
        if len(swept.removed) >= MUCH * self._settings.sweep_slice:
            self._pause = min(self._pause, SHARE * (time.monotonic() - began))

    def _tell(self, swept: Swept, now: float) -> None:
        """An entry may be forgotten a tombstone's time after its session expires, or was closed."""
        self._telemetry.count("sessions_expired_total", sum(not was_closed(entry.value) for entry in swept.removed))
        live = sum(purge_at - self._settings.tombstone_ttl >= now for purge_at in swept.kept)
        self._live, self._ended = self._live + live, self._ended + len(swept.kept) - live
        if swept.ends_round:
            self._telemetry.set("sessions", self._live, "live")
            self._telemetry.set("sessions", self._ended, "ended")
            self._live, self._ended = 0, 0
