"""Whether there is room for another session. Sessions that are there already are never refused for it.

What the store holds is looked up at most once a second while there is room, and counted on meanwhile; sooner once a worker has used up a
quarter of what was left, because others may have done so, too. What is on its way in other workers' batches is not seen: the quota may be
overshot by about a batch each. It knows stores. It does not know sessions.
"""

import time
from collections.abc import Callable

from handlers.errors import QuotaExceeded
from handlers.settings import Settings
from handlers.stores.base import Store, Usage

FRESH = 1.0  # seconds for which a look holds
RATION = 4  # a worker admits one in so many of the sessions that there is room for, and looks again


class Quota:
    """`clock` gives seconds and never goes back."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._sessions, self._size, self._clock = store, settings.max_sessions, settings.max_stored_bytes, clock
        self._looked, self._usage, self._since, self._ration = -FRESH, Usage(0, 0, 0), 0, 0

    def admit(self, uncommitted: int = 0) -> None:
        """Count one more session beside those `uncommitted` ones that the store does not hold yet.

        Raises QuotaExceeded when there is no room for it, StoreUnavailable when the store cannot tell.
        """
        used_up = self._entries < self._sessions and self._since >= self._ration
        if used_up or self._clock() - self._looked >= FRESH:
            self._look(uncommitted)
        if 0 < self._sessions <= self._entries:
            raise QuotaExceeded(_full(f"{self._entries} sessions, at most {self._sessions} (max_sessions)"), limit=self._sessions)
        most = self._size or self._usage.capacity // 8 * 7  # the rest is for the steps of the sessions that are there
        if 0 < most <= self._usage.size:
            raise QuotaExceeded(_full(f"{self._usage.size} bytes, no new session from {most} on (max_stored_bytes)"), limit=most)
        self._since += 1

    def _look(self, uncommitted: int) -> None:
        self._usage, self._looked, self._since = self._store.usage(), self._clock(), uncommitted
        self._ration = uncommitted + max(1, (self._sessions - self._entries) // RATION)

    @property
    def _entries(self) -> int:
        return self._usage.entries + self._since


def _full(what: str) -> str:
    return f"the store holds {what}, those closed or expired that it still remembers included; close some and try again later"
