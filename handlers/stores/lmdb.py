"""Keep sessions on the local disk, shared by several worker processes: LMDB, the default store.

Durability: a commit is on the disk (fsync) before it is acknowledged, so neither kill -9 nor a power cut loses an acknowledged step,
as far as the disk keeps its word; with `store_sync` off kill -9 still loses nothing, and a power cut may lose the last seconds or leave the
file unreadable. A commit is one transaction: LMDB writes copies of the pages and then one root, so a process that dies in the middle
leaves the old root. Writers queue on a robust mutex that survives the death of its holder; readers never wait.
"""

import errno
import itertools
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from handlers.errors import StoreUnavailable
from handlers.stores.base import HEAD, Change, Entry, Parts, StoreFull, Swept, Usage

HEADER = struct.Struct("<Qd")  # version, purge_at; the value follows
HEADER_BYTES = HEADER.size
PARTS = b"\1parts"  # the database of the parts, and its key among the entries, where LMDB lists its databases
NUMBER = struct.Struct(">Q")  # of a part; its key is that of its entry, a zero byte and this, so that the parts of an entry are neighbours
PAGE = 1_000  # entries of one read while scanning
READERS = 512  # threads and processes that may read at once; a slot costs 64 bytes
PROBE = b"\0probe"
UNWRITTEN = 1_024  # pages at the end of the file that LMDB may have allocated and freed without writing them
NO_ROOM_ON_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # EIO: for LMDB a write that was cut short, as by a full disk
NOT_APPLIED = "nothing was applied"
T = TypeVar("T")


def free_disk_bytes(folder: str) -> int:
    """Return what an ordinary user may still write on the disk that holds `folder`."""
    return shutil.disk_usage(folder).free


class EmbeddedStore:
    """Keep the sessions in an LMDB environment in `folder`.

    `size` is the largest size of the file in bytes; it takes address space, not memory. With `sync` each commit is flushed to the disk.
    `free_bytes` returns how far the file can still grow on its disk.
    """

    def __init__(self, folder: str, size: int, sync: bool = True, free_bytes: Callable[[str], int] = free_disk_bytes) -> None:
        self._folder, self._free_bytes = folder, free_bytes
        self._sweep_after = b""
        self._parts: Any = None  # LMDB's handle of the database of the parts, once it is open
        self._env: lmdb.Environment = self._guard(lambda: self._open(size, sync))

    def _open(self, size: int, sync: bool) -> lmdb.Environment:
        Path(self._folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        # Sessions are read at random: the kernel's readahead would pull in megabytes for each page of a store that is not in memory.
        env = lmdb.open(
            self._folder, map_size=size, max_readers=READERS, sync=sync, mode=0o600, max_spare_txns=2, readahead=False, max_dbs=1
        )
        try:
            env.reader_check()  # frees the slots of processes that were killed
            self._refuse_truncated(env)
        except BaseException:
            env.close()  # it could not be opened again in this process
            raise
        return env

    def _refuse_truncated(self, env: lmdb.Environment) -> None:
        """Raise StoreUnavailable for a file that is shorter than its pages: reading a page behind the end is a SIGBUS, which kills."""
        pages, size = env.info()["last_pgno"] + 1, (Path(self._folder) / "data.mdb").stat().st_size
        if size // env.stat()["psize"] < pages - UNWRITTEN:
            raise StoreUnavailable(f"store {self._folder}: data.mdb is cut off after {size} bytes of {pages} pages: put a sound copy there")

    def _guard(self, work: Callable[[], T]) -> T:
        """Run `work`, and raise LMDB's errors and the system's as StoreUnavailable."""
        try:
            return work()
        except lmdb.MapFullError as e:
            reason = "full at its configured size (store_bytes)"
            raise StoreFull(f"store {self._folder}: {reason}; {NOT_APPLIED}", f"the session store is {reason}; {NOT_APPLIED}") from e
        except (lmdb.Error, OSError) as e:
            message = f"store {self._folder}: {e}; {NOT_APPLIED}"
            if getattr(e, "code", 0) in NO_ROOM_ON_DISK:
                raise StoreFull(message, f"the session store cannot write to its disk, which may be full; {NOT_APPLIED}") from e
            raise StoreUnavailable(message, f"the session store is unavailable; {NOT_APPLIED}") from e

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return self._guard(lambda: self._get_many(keys))

    def _get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        with self._env.begin() as transaction:
            return [None if value is None else _decode(value) for value in map(transaction.get, keys)]

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        return self._guard(lambda: self._get_parts(key, numbers))

    def _get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        if not self._has_parts():
            return [None] * len(numbers)
        with self._env.begin(db=self._parts) as transaction:
            return [transaction.get(_part_key(key, number)) for number in numbers]

    def _has_parts(self) -> bool:
        """Open the database of the parts if there is one: another process may have made it. Must not run within a transaction."""
        if self._parts is None:
            try:
                self._parts = self._env.open_db(PARTS, create=False)
            except lmdb.NotFoundError:
                return False
        return True

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return self._guard(lambda: self._commit_many(changes)) if changes else []

    def _commit_many(self, changes: Sequence[Change]) -> list[bool]:
        parts = {i: change.parts for i, change in enumerate(changes) if change.parts is not None}
        if parts and self._parts is None:
            self._parts = self._env.open_db(PARTS)
        with self._env.begin(write=True, buffers=True) as transaction:  # an exception aborts it: all of the batch or nothing
            get, put, pack = transaction.get, transaction.put, HEADER.pack
            applied = [
                _version(get(change.key)) == change.expected
                and put(change.key, pack(change.entry.version, change.entry.purge_at) + change.entry.value)
                for change in changes
            ]
            for i, changed in parts.items():
                if applied[i]:
                    self._change_parts(transaction, changes[i].key, changed)
            return applied

    def _change_parts(self, transaction: lmdb.Transaction, key: bytes, parts: Parts) -> None:
        for number in parts.remove:
            transaction.delete(_part_key(key, number), db=self._parts)
        for number, value in parts.put:
            transaction.put(_part_key(key, number), value, db=self._parts)

    def sweep(self, now: float, limit: int) -> Swept:
        return self._guard(lambda: self._sweep(now, limit))

    def _sweep(self, now: float, limit: int) -> Swept:
        seen = list(self._headers(self._sweep_after, limit))
        ends = len(seen) < limit
        self._sweep_after = b"" if ends else seen[-1][0]
        stale = [(key, version) for key, version, purge_at in seen if purge_at < now]
        return Swept(self._remove(stale) if stale else (), [purge_at for _, _, purge_at in seen if purge_at >= now], ends)

    def probe(self) -> None:
        self._guard(self._probe)

    def _probe(self) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(PROBE, b"")
            transaction.delete(PROBE)

    def usage(self) -> Usage:
        return self._guard(self._usage)

    def _usage(self) -> Usage:
        """Count the pages in use: LMDB reuses free pages of the file. The file can grow until its map or its disk is full."""
        has_parts = self._has_parts()
        with self._env.begin() as transaction:
            stat = self._env.stat()
            used = [stat, transaction.stat(self._parts)] if has_parts else [stat]
        pages = sum(each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in used)
        on_disk = (Path(self._folder) / "data.mdb").stat().st_blocks * 512
        capacity = min(self._env.info()["map_size"], on_disk + self._free_bytes(self._folder))
        return Usage(stat["entries"] - has_parts, pages * stat["psize"], capacity)

    def count(self, prefix: bytes, limit: int) -> int:
        return self._guard(lambda: self._count(prefix, limit))

    def _count(self, prefix: bytes, limit: int) -> int:
        """Walk the neighbouring keys: a third of a microsecond each, their values are not read."""
        with self._env.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(prefix):
                return 0
            keys = itertools.islice(cursor.iternext(keys=True, values=False), limit)
            return sum(1 for _ in itertools.takewhile(lambda key: key[: len(prefix)] == prefix, keys))

    def _headers(self, after: bytes, limit: int) -> Iterator[tuple[bytes, int, float]]:
        """Yield key, version and purge time of up to `limit` entries after the key `after`, without copying their values."""
        with self._env.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(after + b"\0"):
                return
            for key, value in itertools.islice(_entries(cursor), limit):
                yield bytes(key), *_head(value)

    def _remove(self, stale: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """Remove the entries that have not changed since; return the heads of their values.

        Removing needs free pages, too: in a full store the entries are removed in smaller batches.
        """
        try:
            return self._delete(stale)
        except lmdb.MapFullError:
            if len(stale) == 1:
                raise
        size = max(1, len(stale) // 10)
        return [head for i in range(0, len(stale), size) for head in self._remove(stale[i : i + size])]

    def _delete(self, stale: Sequence[tuple[bytes, int]]) -> list[bytes]:
        has_parts = self._has_parts()
        with self._env.begin(write=True, buffers=True) as transaction:
            found = {key: bytes(value[: HEADER.size + HEAD]) for key, _ in stale if (value := transaction.get(key)) is not None}
            removed = [key for key, version in stale if _version(found.get(key)) == version and transaction.delete(key)]
            if has_parts:
                self._delete_parts(transaction, removed)
        return [found[key][HEADER.size :] for key in removed]

    def _delete_parts(self, transaction: lmdb.Transaction, keys: Sequence[bytes]) -> None:
        with transaction.cursor(db=self._parts) as cursor:
            for key in keys:
                first = _part_key(key, 0)
                found = cursor.set_range(first)
                while found and _is_part(bytes(cursor.key()), key):
                    found = cursor.delete()  # and goes on to the next

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Read page by page: a read transaction over a whole large store would keep LMDB from reusing freed pages."""
        first = max(prefix, after + b"\0") if after else prefix
        while page := self._guard(partial(self._page, prefix, first)):
            yield from page
            first = page[-1][0] + b"\0"

    def _page(self, prefix: bytes, first: bytes) -> list[tuple[bytes, Entry]]:
        """Return up to `PAGE` entries whose keys begin with `prefix`, from the key `first` on."""
        with self._env.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            if not (cursor.set_range(first) if first else cursor.first()):
                return []
            found = ((bytes(key), value) for key, value in itertools.islice(_entries(cursor), PAGE))
            return [(key, _decode(bytes(value))) for key, value in itertools.takewhile(lambda item: item[0].startswith(prefix), found)]

    def check(self) -> list[str]:
        problems = []
        for key, entry in self.scan(b""):
            if not 0 < entry.version < 2**63:
                problems.append(f"{key!r}: version {entry.version} is out of range")
        return problems

    def close(self) -> None:
        self._env.close()


def _part_key(key: bytes, number: int) -> bytes:
    return key + b"\0" + NUMBER.pack(number)


def _is_part(part_key: bytes, key: bytes) -> bool:
    return len(part_key) == len(key) + 1 + NUMBER.size and part_key.startswith(key)


def _entries(cursor: lmdb.Cursor) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values from the cursor's place on, without the database of the parts."""
    return ((key, value) for key, value in cursor.iternext() if key != PARTS)


def _version(value: Any) -> int | None:
    """Return the version of a stored value, 0 of foreign bytes."""
    return None if value is None else HEADER.unpack_from(value)[0] if len(value) >= HEADER_BYTES else 0


def _head(value: Any) -> tuple[int, float]:
    """Unpack version and purge time. Foreign bytes get version 0, which no commit expects, and a purge time that never comes."""
    return HEADER.unpack_from(value) if len(value) >= HEADER_BYTES else (0, math.inf)


def _decode(value: bytes) -> Entry:
    return Entry(*_head(value), value[HEADER_BYTES:])
