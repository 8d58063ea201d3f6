"""Honest fakes around a real store: each fails, or is overtaken, at a moment that the test chooses."""

from collections.abc import Callable, Iterator, Sequence

from handlers.errors import StoreUnavailable
from handlers.stores.base import Change, Entry, Store, Swept, Usage


class Wrapped:
    """A store that passes everything on."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return self.inner.get_many(keys)

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        return self.inner.get_parts(key, numbers)

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return self.inner.commit_many(changes)

    def sweep(self, now: float, limit: int) -> Swept:
        return self.inner.sweep(now, limit)

    def probe(self) -> None:
        self.inner.probe()

    def usage(self) -> Usage:
        return self.inner.usage()

    def count(self, prefix: bytes, limit: int) -> int:
        return self.inner.count(prefix, limit)

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        return self.inner.scan(prefix, after)

    def check(self) -> list[str]:
        return self.inner.check()

    def close(self) -> None:
        self.inner.close()


class Overtaken(Wrapped):
    """Between this worker's read and its commit another worker acts: the first of `rivals`, then the next, one a commit."""

    def __init__(self, inner: Store, *rivals: Callable[[], object]) -> None:
        super().__init__(inner)
        self.rivals = list(rivals)
        self.commits = 0

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        self.commits += 1
        if self.rivals:
            self.rivals.pop(0)()
        return super().commit_many(changes)


class Broken(Wrapped):
    """A store that is away for what is named in `away`: "read", "parts", "commit", "sweep", "usage"."""

    def __init__(self, inner: Store, *away: str) -> None:
        super().__init__(inner)
        self.away = set(away)

    def _reach(self, what: str) -> None:
        if what in self.away:
            raise StoreUnavailable(f"store: away for {what}")

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        self._reach("read")
        return super().get_many(keys)

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        self._reach("parts")
        return super().get_parts(key, numbers)

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        self._reach("commit")
        return super().commit_many(changes)

    def sweep(self, now: float, limit: int) -> Swept:
        self._reach("sweep")
        return super().sweep(now, limit)

    def usage(self) -> Usage:
        self._reach("usage")
        return super().usage()

    def count(self, prefix: bytes, limit: int) -> int:
        self._reach("usage")
        return super().count(prefix, limit)


class GoesAway(Wrapped):
    """A store that takes `after` commits and no more."""

    def __init__(self, inner: Store, after: int) -> None:
        super().__init__(inner)
        self.after = after

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        if changes and not self.after:
            raise StoreUnavailable("store: gone")
        self.after -= bool(changes)
        return super().commit_many(changes)
