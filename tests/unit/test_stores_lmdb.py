"""What the embedded store promises beyond the contract: a full disk, a folder that cannot be, a foreign entry."""

import os
import shutil

import lmdb
import pytest

from handlers.errors import StoreUnavailable
from handlers.stores.lmdb import EmbeddedStore
from tests.support.store_kinds import put


@pytest.fixture
def small(tmp_path):
    store = EmbeddedStore(str(tmp_path / "db"), 1 << 20)
    yield store
    store.close()


def test_a_full_store_is_unavailable_and_applies_nothing_of_the_batch(small):
    small.commit_many([put(b"a", b"here")])
    before = dict(small.scan(b""))
    with pytest.raises(StoreUnavailable, match=r"full at its configured size \(store_bytes\); nothing was applied"):
        small.commit_many([put(b"a", b"changed", version=2, expected=1), *(put(b"%d" % n, b"x" * 100_000) for n in range(20))])
    assert dict(small.scan(b"")) == before
    assert small.commit_many([put(b"a", b"changed", version=2, expected=1)]) == [True]


def test_room_that_a_sweep_made_is_used_again(small):
    for n in range(30):
        assert small.commit_many([put(b"%d" % n, b"x" * 100_000, purge_at=float(n))]) == [True]
        small.sweep(n + 0.5, 100)
    assert small.check() == []


@pytest.mark.parametrize("size", [500, 2_000])
def test_a_store_that_is_full_of_what_is_past_its_time_can_be_swept_empty(small, size):
    """Removing takes pages, too; a store that could not be swept for want of them would stay full for ever."""
    n, full = 0, False
    while not full:
        try:
            small.commit_many([put(b"%05d" % n, b"x" * size, purge_at=1.0)])
        except StoreUnavailable:
            full = True
        n += 1
    removed = 0
    for _ in range(20):
        removed += len(small.sweep(2.0, 1_000).removed)
    assert (removed, small.usage().entries) == (n - 1, 0)


class Overtaken(EmbeddedStore):
    """Another worker renews the entries between the look of a sweep and its removal."""

    def _remove(self, stale):
        self.commit_many([put(key, b"renewed", version + 1, version) for key, version in stale])
        return super()._remove(stale)


def test_an_entry_renewed_amid_a_sweep_stays(tmp_path):
    store = Overtaken(str(tmp_path), 1 << 20)
    store.commit_many([put(b"a", b"old", purge_at=1.0)])
    assert not store.sweep(2.0, 10).removed
    assert [entry.value for _, entry in store.scan(b"")] == [b"renewed"]
    store.close()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="file/db"):
        EmbeddedStore(str(tmp_path / "file" / "db"), 1 << 20)


@pytest.mark.parametrize(("free", "capacity"), [(1 << 40, 64 << 20), (1 << 20, None)], ids=["large disk", "small disk"])
def test_the_capacity_is_the_map_size_or_what_the_disk_has_room_for(tmp_path, free, capacity):
    store = EmbeddedStore(str(tmp_path), 64 << 20, free_bytes=lambda folder: free)
    store.commit_many([put(b"%d" % n, b"x" * 100_000) for n in range(20)])
    on_disk = (tmp_path / "data.mdb").stat().st_blocks * 512
    assert store.usage().capacity == (capacity or on_disk + free)
    store.close()


def test_the_capacity_follows_the_real_disk(tmp_path):
    store = EmbeddedStore(str(tmp_path), 1 << 44)
    free = shutil.disk_usage(tmp_path).free
    assert store.usage().capacity == pytest.approx(free, rel=0.05)
    store.close()


def test_a_file_that_is_no_store_is_unavailable(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1_000)
    with pytest.raises(StoreUnavailable):
        EmbeddedStore(str(tmp_path), 1 << 20)


def test_a_file_that_was_cut_off_is_unavailable_before_a_page_behind_its_end_is_read(tmp_path):
    store = EmbeddedStore(str(tmp_path), 64 << 20)
    store.commit_many([put(b"%d" % n, b"x" * 100_000) for n in range(100)])
    store.close()
    whole = (tmp_path / "data.mdb").stat().st_size
    os.truncate(tmp_path / "data.mdb", whole // 2)
    with pytest.raises(StoreUnavailable, match=r"data\.mdb is cut off after \d+ bytes of \d+ pages: put a sound copy there"):
        EmbeddedStore(str(tmp_path), 64 << 20)


def test_the_folder_and_its_files_are_the_owners_alone(small, tmp_path):
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "db", *(tmp_path / "db").iterdir())}
    assert modes == {"db": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600}


@pytest.mark.parametrize("junk", [b"", b"short", b"\0" * 16], ids=["empty", "shorter than a header", "version 0"])
def test_check_names_an_entry_that_is_none(tmp_path, junk):
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"traffic/meter-7", junk)
    store = EmbeddedStore(str(tmp_path), 1 << 20)
    [problem] = store.check()
    store.close()
    assert "traffic/meter-7" in problem


def test_an_entry_that_is_none_keeps_no_other_from_being_read_or_swept(tmp_path):
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"short")
    store = EmbeddedStore(str(tmp_path), 1 << 20)
    good = put(b"b", b"1")
    assert store.commit_many([good, put(b"c", b"1", purge_at=1.0)]) == [True, True]
    assert store.get_many([b"a", b"b"])[1] == good.entry
    assert len(store.sweep(2.0, 10).removed) == 1
    store.close()
