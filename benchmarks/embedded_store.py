"""What a batch of commits and reads costs in the candidates for the embedded store: `python -m benchmarks.embedded_store`.

20,000 sessions of 2,300 bytes; a write reads each row and replaces it, in one transaction. Medians of 200 batches, microseconds a batch.
"""

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb
import numpy as np

SESSIONS, VALUE, BATCHES, ROUNDS = 20_000, os.urandom(2_300), (1, 64), 200
KEYS = [f"traffic/s{i}".encode() for i in range(SESSIONS)]
Work = Callable[[list[bytes]], None]


@contextmanager
def lmdb_store(folder: Path, **options: bool) -> Iterator[tuple[Work, Work]]:
    environment = lmdb.open(str(folder), map_size=8 << 30, **options)
    with environment.begin(write=True) as transaction:
        for key in KEYS:
            transaction.put(key, VALUE)

    def write(keys: list[bytes]) -> None:
        with environment.begin(write=True) as transaction:
            for key in keys:
                transaction.get(key)
                transaction.put(key, VALUE)

    def read(keys: list[bytes]) -> None:
        with environment.begin() as transaction:
            for key in keys:
                transaction.get(key)

    yield write, read
    environment.close()


@contextmanager
def sqlite_store(folder: Path, synchronous: str, page: int) -> Iterator[tuple[Work, Work]]:
    database = sqlite3.connect(folder / "sessions.db", isolation_level=None)
    for pragma in (f"page_size={page}", "journal_mode=WAL", f"synchronous={synchronous}"):
        database.execute(f"pragma {pragma}")
    database.execute("create table session(key blob primary key, version integer, value blob) without rowid")
    database.execute("begin")
    database.executemany("insert into session values(?, 0, ?)", [(key, VALUE) for key in KEYS])
    database.execute("commit")

    def write(keys: list[bytes]) -> None:
        database.execute("begin immediate")
        for key in keys:
            database.execute("update session set version = version + 1, value = ? where key = ? and version >= 0", (VALUE, key))
        database.execute("commit")

    def read(keys: list[bytes]) -> None:
        marks = ",".join("?" * len(keys))
        database.execute(f"select key, version, value from session where key in ({marks})", keys).fetchall()

    yield write, read
    database.close()


def median(work: Work, batch: int) -> float:
    times = []
    for k in range(ROUNDS):
        start = k * batch % (SESSIONS - batch)
        began = time.perf_counter()
        work(KEYS[start : start + batch])
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6


def main() -> None:
    candidates: dict[str, Callable[[Path], AbstractContextManager[tuple[Work, Work]]]] = {
        "LMDB, fsync": lambda folder: lmdb_store(folder),
        "LMDB, no metadata fsync": lambda folder: lmdb_store(folder, metasync=False),
        "LMDB, no fsync": lambda folder: lmdb_store(folder, sync=False),
        "SQLite WAL FULL, 4 KiB pages": lambda folder: sqlite_store(folder, "FULL", 4_096),
        "SQLite WAL FULL, 16 KiB pages": lambda folder: sqlite_store(folder, "FULL", 16_384),
        "SQLite WAL NORMAL, 16 KiB pages": lambda folder: sqlite_store(folder, "NORMAL", 16_384),
    }
    print(f"{'':<32} {'write 1':>8} {'write 64':>9} {'read 1':>7} {'read 64':>8} {'bytes a session':>16}")
    for label, opened in candidates.items():
        with tempfile.TemporaryDirectory() as name, opened(Path(name)) as (write, read):
            costs = [median(work, batch) for work in (write, read) for batch in BATCHES]
            size = sum(path.stat().st_size for path in Path(name).iterdir() if path.suffix in (".mdb", ".db")) / SESSIONS
            print(f"{label:<32} {costs[0]:>8.0f} {costs[1]:>9.0f} {costs[2]:>7.0f} {costs[3]:>8.0f} {size:>16.0f}", flush=True)


if __name__ == "__main__":
    main()
