"""The interface of the session stores: versioned values under keys, changed by compare-and-set only.

Every implementation guarantees:
- `commit_many` applies each change whole or not at all, and says which; a change whose `expected` version is not the stored one is refused;
- an entry may have numbered parts, which are written with it, read apart from it, and deleted with it;
- what `commit_many` acknowledged is read by every process that shares the store, at once;
- an entry may be deleted after its `purge_at`, never before.
Every method raises StoreUnavailable when the store fails; the caller may try again; after StoreFull with fewer changes at once.

A store is used by one thread of a process, the one that runs the batches, and a process opens a store once: LMDB allows one environment
for each folder and process, and neither the memory store nor the cursors of a sweep have locks. Other processes share the store freely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from handlers.errors import StoreUnavailable

HEAD = 64  # bytes at the start of a value that a sweep returns; a record's header is shorter


class Entry(Struct):
    """One stored value, never changed in place. `version` is 1 … 2**63-1; `purge_at` is seconds since the epoch."""

    version: int
    purge_at: float
    value: bytes


class Parts(Struct):
    """What a change does to the parts of its entry. The parts that it does not name stay."""

    put: Sequence[tuple[int, bytes]]  # number, 0 … 2**63-1, and value
    remove: Sequence[int]  # numbers; none of `put`


class Change(Struct):
    """Replace the entry under `key`, if its version is `expected` (None: if there is none), by `entry`.

    `parts` is None only for an entry that has no parts, before and after the change.
    """

    key: bytes  # at most 400 bytes
    expected: int | None
    entry: Entry
    parts: Parts | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of one slice of a sweep. A round is one pass over the store; after `ends_round` the next slice begins another."""

    removed: Sequence[bytes]  # the first HEAD bytes of each value
    kept: Sequence[float]  # `purge_at` of each entry that stays
    ends_round: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a store is, data of others in it and the parts of entries included."""

    entries: int
    size: int  # bytes
    capacity: int  # bytes that the store can grow to; 0 when there is no limit


class StoreFull(StoreUnavailable):
    """The store has no room for the changes of a commit.

    `applied` tells of each change whether it was applied, or None where there was no room for it; empty where nothing was applied.
    """

    def __init__(self, message: str, public: str, applied: Sequence[bool | None] = ()) -> None:
        super().__init__(message, public)
        self.applied = applied


class Store(Protocol):
    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return the entries under `keys`, in their order, each as it was at some moment during the call."""

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        """Return parts of the entry under `key`, in the order of `numbers`.

        Another process may change the entry between `get_many` and this call. A commit that expects the version of that time is then
        refused, so what is computed from the parts is not applied.
        """

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        """Apply each change whose `expected` version matches; return True for each that was applied. Keys must be distinct."""

    def sweep(self, now: float, limit: int) -> Swept:
        """Look at about `limit` entries, starting where the last call stopped; remove those whose `purge_at` is before `now`."""

    def probe(self) -> None:
        """Try every kind of operation, and leave nothing behind: a store that can only be read is unavailable."""

    def usage(self) -> Usage:
        """Return how full the store is, as cheaply as it can tell."""

    def count(self, prefix: bytes, limit: int) -> int:
        """Return how many keys begin with `prefix`, expired entries that are still there included; counting may end at `limit`."""

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Yield every entry whose key begins with `prefix` and follows `after`, in the order of keys."""

    def check(self) -> list[str]:
        """Return one sentence for each stored entry that is broken."""

    def close(self) -> None:
        """Close files and connections. Committed entries stay."""
