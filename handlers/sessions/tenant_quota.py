"""Decide whether a tenant may have another session of this model. Sessions that exist already are never refused.

A worker counts a tenant's sessions when the tenant creates one, and counts its own admissions until it counts anew: once it has used a
quarter of the room that was left, every ten seconds, and every second while there is no room. The sessions that other workers create
meanwhile are not seen, so the quota may be exceeded by what they admit in that time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from handlers.errors import QuotaExceeded
from handlers.keys import DEFAULT_TENANT
from handlers.sessions.tenancy import session_name
from handlers.stores.base import Store

MAX_AGE, MAX_AGE_FULL = 10.0, 1.0  # seconds for which a count holds
SHARE = 4  # a worker may use one part in so many of the room that was left before it counts again


@dataclass(slots=True)
class _Count:
    """A tenant's sessions, as they were counted last."""

    counted_at: float
    entries: int
    allowance: int  # how many may be admitted before the next count
    admitted: int = 0  # since then


class TenantQuota:
    """The quota of one worker, for one thread: at most `limit` sessions of a tenant, 0 for no quota. The default tenant has none.

    `namespace` is what the keys of the model's sessions begin with; `clock` gives seconds and never goes back.
    """

    def __init__(self, store: Store, namespace: str, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._namespace, self._limit, self._clock = store, namespace, limit, clock
        self._counts: dict[str, _Count] = {}  # the tenants are those of the key file

    def admit(self, tenant: str, uncommitted: int = 0) -> None:
        """Count one more session of a tenant, beside `uncommitted` sessions of it that the store does not hold yet.

        Raises QuotaExceeded when the tenant has as many as it may, StoreUnavailable when the store cannot tell.
        """
        if not self._limit or tenant == DEFAULT_TENANT:
            return
        count = self._counts.get(tenant)
        if count is None or self._is_old(count):
            count = self._counts[tenant] = self._count(tenant, uncommitted)
        if count.entries + count.admitted >= self._limit:
            raise QuotaExceeded(
                f"the tenant {tenant} has {self._limit} sessions of this model (max_sessions_per_tenant), those closed or expired that are "
                f"still remembered included; close some and try again later",
                limit=self._limit,
            )
        count.admitted += 1

    def _is_old(self, count: _Count) -> bool:
        age, is_full = self._clock() - count.counted_at, count.entries + count.admitted >= self._limit
        return age >= (MAX_AGE_FULL if is_full else MAX_AGE) or (not is_full and count.admitted >= count.allowance)

    def _count(self, tenant: str, uncommitted: int) -> _Count:
        prefix = f"{self._namespace}/{session_name(tenant, '')}".encode("ascii")
        entries = self._store.count(prefix, self._limit)
        room = max(0, self._limit - entries - uncommitted)
        return _Count(self._clock(), entries, uncommitted + max(1, room // SHARE), uncommitted)
