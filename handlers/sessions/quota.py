"""Decide whether the store has room for another session. Sessions that exist already are never refused.

While there is room, a worker asks the store how full it is at most once a second and counts its own sessions meanwhile. It asks sooner once
it has used a quarter of the room that was left, because other workers may have done the same. Sessions in the batches of other workers are
not seen, so the quota may be exceeded by about one batch for each worker.
"""

import time
from collections.abc import Callable

from handlers.errors import QuotaExceeded
from handlers.settings import Settings
from handlers.stores.base import Store, Usage

MAX_AGE = 1.0  # seconds for which a look at the store holds
SHARE = 4  # a worker may use one part in so many of the room that was left before it looks again
PAGE_BYTES = 4_096  # what a session takes at least, assumed while the store is empty


class Quota:
    """The quota of one worker, for one thread. `clock` gives seconds and never goes back."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._max_sessions, self._max_bytes = settings.max_sessions, settings.max_stored_bytes
        self._looked_at, self._usage = -MAX_AGE, Usage(0, 0, 0)
        self._admitted, self._allowance = 0, 0  # since the last look; how many may be admitted before the next one

    def admit(self, uncommitted: int = 0) -> None:
        """Count one more session, beside `uncommitted` sessions that the store does not hold yet.

        Raises QuotaExceeded when there is no room for it, StoreUnavailable when the store cannot tell.
        """
        if (self._has_room and self._admitted >= self._allowance) or self._clock() - self._looked_at >= MAX_AGE:
            self._look(uncommitted)
        if 0 < self._max_sessions <= self._entries:
            text = f"{self._entries} sessions, at most {self._max_sessions} (max_sessions)"
            raise QuotaExceeded(_message(text), limit=self._max_sessions)
        if 0 < self._byte_limit <= self._usage.size:
            text = f"{self._usage.size} bytes, no new session from {self._byte_limit} on (max_stored_bytes)"
            raise QuotaExceeded(_message(text), limit=self._byte_limit)
        self._admitted += 1

    def _look(self, uncommitted: int) -> None:
        self._usage, self._looked_at, self._admitted = self._store.usage(), self._clock(), uncommitted
        left = [self._max_sessions - self._entries] if self._max_sessions else []
        if self._byte_limit:
            bytes_each = max(PAGE_BYTES, self._usage.size // max(1, self._usage.entries))
            left.append((self._byte_limit - self._usage.size) // bytes_each)
        self._allowance = uncommitted + max(1, min(left, default=0) // SHARE)

    @property
    def _entries(self) -> int:
        return self._usage.entries + self._admitted

    @property
    def _byte_limit(self) -> int:
        """The bytes from which on no session is created; the rest of the store is for the steps of existing sessions. 0: no limit."""
        return self._max_bytes or self._usage.capacity // 8 * 7

    @property
    def _has_room(self) -> bool:
        """Whether the last look left room; a full store is asked once a second only."""
        sessions = not self._max_sessions or self._entries < self._max_sessions
        size = not self._byte_limit or self._usage.size < self._byte_limit
        return bool(self._max_sessions or self._byte_limit) and sessions and size


def _message(text: str) -> str:
    return f"the store holds {text}, those closed or expired that it still remembers included; close some and try again later"
