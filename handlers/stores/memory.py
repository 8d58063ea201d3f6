"""Keep sessions in a dictionary: for tests, and for one worker whose sessions may end with it."""

from collections.abc import Iterator, Sequence
from itertools import islice

from handlers.stores.base import HEAD, Change, Entry, Swept, Usage


class MemoryStore:
    """The reference implementation that the other stores are tested against. It has no locks: one thread may use it."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._parts: dict[bytes, dict[int, bytes]] = {}
        self._swept = b""

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return [self._entries.get(key) for key in keys]

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        return [self._parts.get(key, {}).get(number) for number in numbers]

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> bool:
        current = self._entries.get(change.key)
        if (current.version if current else None) != change.expected:
            return False
        self._entries[change.key] = change.entry
        if change.parts is not None:
            kept = self._parts.pop(change.key, {}) | dict(change.parts.put)
            for number in change.parts.remove:
                kept.pop(number, None)
            self._parts[change.key] = kept
        return True

    def sweep(self, now: float, limit: int) -> Swept:
        seen = list(islice((key for key in sorted(self._entries) if key > self._swept), limit))
        ends = len(seen) < limit
        self._swept = b"" if ends else seen[-1]
        stale = [key for key in seen if self._entries[key].purge_at < now]
        removed = [self._entries.pop(key).value[:HEAD] for key in stale]
        for key in stale:
            self._parts.pop(key, None)
        return Swept(removed, [self._entries[key].purge_at for key in seen if key in self._entries], ends)

    def probe(self) -> None:
        pass

    def usage(self) -> Usage:
        parts = sum(len(value) for parts in self._parts.values() for value in parts.values())
        return Usage(len(self._entries), parts + sum(len(key) + len(entry.value) for key, entry in self._entries.items()), 0)

    def count(self, prefix: bytes, limit: int) -> int:
        return sum(key.startswith(prefix) for key in self._entries)

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        return ((key, self._entries[key]) for key in sorted(self._entries) if key.startswith(prefix) and key > after)

    def check(self) -> list[str]:
        return []

    def close(self) -> None:
        self._entries.clear()
        self._parts.clear()
