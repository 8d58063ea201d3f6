"""A store that is opened when it is needed, and again when it went away: a worker starts, and goes on, without its store."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from handlers.errors import ConfigurationError, StoreUnavailable
from handlers.stores.base import Change, Entry, Store, StoreFull, Swept, Usage
from handlers.stores.full import commit_in_parts

log = logging.getLogger("cellstate")
REOPEN_AFTER = 0.5  # seconds between two tries to open the store
MAX_PAUSE = 1.0  # seconds for which calls fail at once after one that failed slowly
NOT_APPLIED = "nothing was applied"
T = TypeVar("T")


class ReopeningStore:
    """Pass every call on to the store that `open_store` opens. `on_change` is told when the store goes away and when it is back.

    While the store cannot be opened, calls raise StoreUnavailable at once, and it is tried again every `REOPEN_AFTER` seconds. When a call
    fails slowly, as one that waits for a server that hangs, later calls fail at once for as long as that one took, up to `MAX_PAUSE`: a
    batch must not wait for each of its calls in turn. A store that is full fails only what it has no room for.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        on_change: Callable[[bool], None] = lambda available: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the store. Raises ConfigurationError; a store that is only unavailable is opened later."""
        self._open_store, self._on_change, self._clock = open_store, on_change, clock
        self._store: Store | None = None
        self._failing: set[str] | None = None  # operations whose last call failed; None before the first call
        self._retry_at, self._reason = 0.0, ""
        try:
            self._call("open", lambda store: None)
        except StoreUnavailable:
            return  # it has been logged

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return self._call("read", lambda store: store.get_many(keys))

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        return self._call("read", lambda store: store.get_parts(key, numbers))

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return self._call("commit", lambda store: commit_in_parts(store, changes))

    def sweep(self, now: float, limit: int) -> Swept:
        return self._call("sweep", lambda store: store.sweep(now, limit))

    def probe(self) -> None:
        self._call("probe", lambda store: store.probe())

    def usage(self) -> Usage:
        return self._call("usage", lambda store: store.usage())

    def count(self, prefix: bytes, limit: int) -> int:
        return self._call("usage", lambda store: store.count(prefix, limit))

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        return self._call("scan", lambda store: store.scan(prefix, after))

    def check(self) -> list[str]:
        return self._call("check", lambda store: store.check())

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _call(self, operation: str, work: Callable[[Store], T]) -> T:
        started = self._clock()
        if started < self._retry_at:
            raise StoreUnavailable(f"{self._reason} a moment ago; {NOT_APPLIED}", f"the session store is unavailable; {NOT_APPLIED}")
        try:
            result = work(self._opened())
        except StoreUnavailable as e:
            self._failed(operation, e, self._clock() - started)
            raise
        self._succeeded(operation)
        return result

    def _opened(self) -> Store:
        """Return the store, opened and probed. Raises StoreUnavailable."""
        if self._store is None:
            try:
                store = self._open_store()
            except ConfigurationError as e:
                if self._failing is None:
                    raise  # at the start: the worker must not start
                raise StoreUnavailable(f"{e.message}; {NOT_APPLIED}", f"the session store is unavailable; {NOT_APPLIED}") from e
            try:
                store.probe()
            except BaseException:
                store.close()
                raise
            self._store = store
        return self._store

    def _failed(self, operation: str, error: StoreUnavailable, took: float) -> None:
        pause = REOPEN_AFTER if self._store is None else 0.0 if isinstance(error, StoreFull) else min(took, MAX_PAUSE)
        self._retry_at, self._reason = self._clock() + pause, error.message.rpartition("; ")[0] or error.message
        if not self._failing:
            log.warning("store_unavailable %s", error.message)
            self._on_change(False)
        self._failing = (self._failing or set()) | {operation}

    def _succeeded(self, operation: str) -> None:
        if self._failing is None:
            self._on_change(True)
            self._failing = set()
        elif self._failing:
            self._failing -= {operation, "open"}
            if not self._failing:
                log.warning("store_available")
                self._on_change(True)
