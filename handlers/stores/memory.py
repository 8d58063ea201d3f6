"""Sessions in a dictionary: for tests, and for one worker whose sessions may die with it."""

from collections.abc import Iterator, Sequence

from handlers.stores import Change, Entry


class MemoryStore:
    """The contract's plainest reading; the other stores are tested against it."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return [self._entries.get(key) for key in keys]

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> bool:
        current = self._entries.get(change.key)
        if (current.version if current else None) != change.expected:
            return False
        self._entries[change.key] = change.entry
        return True

    def sweep(self, now: float, limit: int) -> int:
        stale = [key for key, entry in self._entries.items() if entry.purge_at < now][:limit]
        for key in stale:
            del self._entries[key]
        return len(stale)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, Entry]]:
        return ((key, self._entries[key]) for key in sorted(self._entries) if key.startswith(prefix))

    def check(self) -> list[str]:
        return []

    def close(self) -> None:
        self._entries.clear()
