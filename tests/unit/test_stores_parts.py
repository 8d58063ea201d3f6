"""The parts of an entry: written with it, read apart from it, deleted with it, held against each kind of store."""

import multiprocessing
from contextlib import closing, suppress

import pytest
from msgspec.structs import replace

from handlers.errors import StoreUnavailable
from handlers.stores.base import Parts
from handlers.stores.lmdb import EmbeddedStore
from tests.support.store_kinds import KINDS, put

LARGEST = 2**63 - 1


@pytest.fixture
def store(kind, tmp_path):
    opened = kind.open(tmp_path)
    yield opened
    opened.close()


def change(key, parts, version=1, expected=None, remove=(), **more):
    return replace(put(key, b"entry", version, expected, **more), parts=Parts(list(parts.items()), remove))


def test_parts_are_read_in_the_order_asked_and_are_no_entries(store):
    assert store.commit_many([change(b"m/a", {0: b"none", 7: b"", LARGEST: b"far" * 999}), put(b"m/b", b"2")]) == [True, True]
    assert store.get_parts(b"m/a", [LARGEST, 1, 0, 7]) == [b"far" * 999, None, b"none", b""]
    assert store.get_parts(b"m/a", []) == []
    assert store.get_parts(b"m/b", [0]) == store.get_parts(b"m/nothing", [0]) == [None]
    assert [key for key, _ in store.scan(b"")] == [b"m/a", b"m/b"]
    assert store.check() == []


def test_a_change_names_the_parts_that_it_writes_and_removes_and_the_others_stay(store):
    store.commit_many([change(b"a", {1: b"1", 2: b"2", 3: b"3"})])
    assert store.commit_many([change(b"a", {2: b"two", 4: b"4"}, version=2, expected=1, remove=[1, 9])]) == [True]
    assert store.get_parts(b"a", [1, 2, 3, 4]) == [None, b"two", b"3", b"4"]
    assert store.commit_many([change(b"a", {}, version=3, expected=2)]) == [True]
    assert store.get_parts(b"a", [1, 2, 3, 4]) == [None, b"two", b"3", b"4"]
    assert store.commit_many([change(b"a", {}, version=4, expected=3, remove=[2, 3, 4])]) == [True]
    assert store.get_parts(b"a", [1, 2, 3, 4]) == [None] * 4


@pytest.mark.parametrize("expected", [None, 2])
def test_a_change_that_is_refused_leaves_the_parts_as_they_are(store, expected):
    store.commit_many([change(b"a", {1: b"1"})])
    changes = [change(b"a", {1: b"other", 2: b"2"}, version=9, expected=expected, remove=[]), change(b"b", {1: b"b"})]
    assert store.commit_many(changes) == [False, True]
    assert (store.get_parts(b"a", [1, 2]), store.get_parts(b"b", [1])) == ([b"1", None], [b"b"])


def test_parts_belong_to_one_entry(store):
    keys = [b"m/a", b"m/a1", b"m/a\xff", b"m/", b"n/a", b"m/" + b"a" * 398]
    store.commit_many([change(key, {1: key, 2**40: key}) for key in keys])
    assert [store.get_parts(key, [1, 2**40]) for key in keys] == [[key, key] for key in keys]


def test_parts_go_with_their_entry_and_no_earlier(kind, store):
    if not kind.sweeps:
        pytest.skip("the server forgets, by its own clock: test_stores_valkey.py")
    store.commit_many([change(key, {1: key, 2: key}, purge_at=at) for key, at in ((b"a", 10.0), (b"a1", 20.0), (b"b", 10.0), (b"c", 30.0))])
    store.commit_many([change(b"b", {3: b"b"}, version=2, expected=1, purge_at=30.0)])
    assert len(store.sweep(15.0, 100).removed) == 1
    left = [store.get_parts(key, [1, 2, 3]) for key in (b"a", b"a1", b"b", b"c")]
    assert left == [[None] * 3, [b"a1", b"a1", None], [b"b", b"b", b"b"], [b"c", b"c", None]]
    assert len(store.sweep(99.0, 100).removed) == 3
    assert store.usage().entries == 0


def test_parts_count_in_bytes_and_not_in_entries(kind, store, tmp_path):
    store.commit_many([put(b"a", b"1"), put(b"b", b"2")])
    before = store.usage()
    store.commit_many([change(b"a", dict.fromkeys(range(9), b"x" * 50000), version=2, expected=1)])
    after = store.usage()
    assert after.size - before.size > 9 * 50_000
    if kind is not KINDS["valkey"]:  # there they count as one: DBSIZE is all that is cheap to ask
        assert after.entries == before.entries


def test_a_sweep_slice_by_slice_sees_entries_alone(kind, store):
    store.commit_many([change(b"%d" % n, {1: b"1", 2: b"2"}) for n in range(5)])
    kept, ends = 0, False
    while not ends:
        swept = store.sweep(0.0, 2)
        kept, ends = kept + len(swept.kept), swept.ends_round
    assert kept == 5


def write_part(kind, folder):
    with closing(KINDS[kind].open(folder)) as store:
        store.commit_many([change(b"a", {1: b"1"})])


def test_parts_that_another_process_wrote_first_are_seen_by_a_store_that_was_open_before(durable, tmp_path):
    with closing(KINDS[durable].open(tmp_path)) as store:
        assert store.get_parts(b"a", [1]) == [None]
        other = multiprocessing.get_context("spawn").Process(target=write_part, args=(durable, tmp_path))
        other.start()
        other.join(60)
        assert store.get_parts(b"a", [1]) == [b"1"]
    with closing(KINDS[durable].open(tmp_path)) as again:
        assert again.get_parts(b"a", [1]) == [b"1"]


def test_a_full_embedded_store_still_removes_parts(tmp_path):
    store, n = EmbeddedStore(str(tmp_path), 1 << 20, sync=False), 0
    with suppress(StoreUnavailable):
        for n in range(1_000):
            store.commit_many([change(b"%d" % n, dict.fromkeys(range(10), b"x" * 3000), purge_at=1.0)])
    assert 5 < n < 999
    removed = 0
    while not (swept := store.sweep(2.0, 1000)).ends_round:
        removed += len(swept.removed)
    assert store.usage().entries == 0
    assert store.commit_many([change(b"new", {1: b"1"})]) == [True]
    store.close()
