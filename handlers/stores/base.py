"""The seam of the session stores: versioned values under keys, changed by compare-and-set only.

A store knows bytes, versions and times. It does not know what a session is. Every implementation keeps these promises:
- `commit_many` applies each change whole or not at all, and says which; a change whose `expected` version is not the one stored is refused;
- what `commit_many` acknowledged is read by every process that shares the store, at once;
- an entry may be forgotten after its `purge_at`, never before.
Failures surface as StoreUnavailable; the caller may try again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

HEAD = 64  # bytes of a value by which it can be told what it was


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored value. `version` is 1 … 2**63-1; `purge_at` is seconds since the epoch."""

    version: int
    purge_at: float
    value: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """Replace the entry under `key`, if its version is `expected` (None: if there is none), by `entry`."""

    key: bytes  # at most 400 bytes
    expected: int | None
    entry: Entry


@dataclass(frozen=True, slots=True)
class Swept:
    """One slice of a sweep: what was removed, when the rest may be, and whether the next slice begins a new round."""

    removed: Sequence[bytes]  # the first HEAD bytes of each value
    kept: Sequence[float]  # purge times
    ends_round: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds, others' data in it included, as cheaply as it can tell."""

    entries: int
    size: int  # bytes
    capacity: int  # bytes that it may come to; 0 when nothing says


class Store(Protocol):
    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries under `keys`, in order; each as it was at some moment of the call."""

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        """Apply each change whose `expected` holds; True for each that was applied. Keys are distinct."""

    def sweep(self, now: float, limit: int) -> Swept:
        """Look at about `limit` entries, carrying on where the last call stopped; remove those past `purge_at`."""

    def probe(self) -> None:
        """Do a little of everything and leave nothing: a store that can only be read is no store. Raises StoreUnavailable."""

    def usage(self) -> Usage:
        """How full it is."""

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Yield every entry whose key begins with `prefix` and follows `after`, in the order of keys."""

    def check(self) -> list[str]:
        """What is wrong with the stored entries, one sentence each; empty when sound."""

    def close(self) -> None:
        """Let go of files and connections. Committed entries stay."""
