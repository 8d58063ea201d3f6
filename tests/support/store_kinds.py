"""The kinds of store that the contract is held against. A new store is one more line in KINDS."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

from handlers.stores.base import Change, Entry, Store
from handlers.stores.lmdb import EmbeddedStore
from handlers.stores.memory import MemoryStore
from tests.support.valkey_server import shared_store

FAR = 4e9  # a purge time that no clock has reached


@dataclass(frozen=True)
class Kind:
    """How to open a store, and what it leaves to others."""

    open: Callable[[Path], Store]  # the store that belongs to a folder; opened again, it is the same store
    durable: bool = True  # entries outlive `close`, and processes share them
    sweeps: bool = True  # `sweep` forgets; otherwise the server does, by its own clock


KINDS = {
    "memory": Kind(lambda folder: MemoryStore(), durable=False),
    "lmdb": Kind(lambda folder: EmbeddedStore(str(folder / "db"), 16 << 20, sync=False)),
    "valkey": Kind(shared_store, sweeps=False),
}
DURABLE = [name for name, kind in KINDS.items() if kind.durable]


def put(key: bytes, value: bytes, version: int = 1, expected: int | None = None, purge_at: float = FAR) -> Change:
    return Change(key, expected, Entry(version, purge_at, value))


def increment(kind: str, folder: Path, keys: list[bytes], times: int, together: Barrier) -> None:
    """Add 1 to each counter `times` times, by compare-and-set alone; the work of one process of several that begin together."""
    store, deadline = KINDS[kind].open(folder), time.monotonic() + 60
    together.wait(30)
    left = dict.fromkeys(keys, times)
    while left and time.monotonic() < deadline:
        for key, applied in zip(left, store.commit_many([_one_more(store, key) for key in left]), strict=True):
            left[key] -= applied
        left = {key: n for key, n in left.items() if n}
    store.close()


def _one_more(store: Store, key: bytes) -> Change:
    [entry] = store.get_many([key])
    if entry is None:
        return put(key, b"1")
    return put(key, b"%d" % (int(entry.value) + 1), entry.version + 1, entry.version)
