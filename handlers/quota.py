"""Whether there is room for another session. Sessions that are there already are never refused for it.

What the store holds is looked up once a second and counted on meanwhile, so that a quota costs no step anything; near the quota each new
session is worth a look. Workers that look at the same moment may overshoot by one each. It knows stores. It does not know sessions.
"""

import time
from collections.abc import Callable

from handlers.errors import QuotaExceeded
from handlers.settings import Settings
from handlers.stores import Store, Usage

FRESH = 1.0  # seconds for which a look holds
NEAR = 100  # sessions below the quota, or a tenth of it: other workers may have used them up since the last look


class Quota:
    """`clock` gives seconds and never goes back."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._sessions, self._size, self._clock = store, settings.max_sessions, settings.most_stored, clock
        self._looked, self._usage, self._since = -FRESH, Usage(0, 0), 0

    def admit(self, uncommitted: int = 0) -> None:
        """Count one more session beside those `uncommitted` ones that the store does not hold yet.

        Raises QuotaExceeded when there is no room for it, StoreUnavailable when the store cannot tell.
        """
        now = self._clock()
        near = self._sessions - max(NEAR, self._sessions // 10)
        if now - self._looked >= FRESH or near <= self._entries < self._sessions:
            self._usage, self._looked, self._since = self._store.usage(), now, uncommitted
        entries, size = self._entries, self._usage.size
        if self._sessions and entries >= self._sessions:
            raise QuotaExceeded(_full(f"{entries} sessions, at most {self._sessions} (max_sessions)"), limit=self._sessions)
        if size >= self._size:
            raise QuotaExceeded(_full(f"{size} bytes, no new session from {self._size} on (max_stored_bytes)"), limit=self._size)
        self._since += 1

    @property
    def _entries(self) -> int:
        return self._usage.entries + self._since


def _full(what: str) -> str:
    return f"the store holds {what}, those closed or expired that it still remembers included; close some and try again later"
