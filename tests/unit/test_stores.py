"""What every store promises, held against each kind; the plainest one is the others' reference."""

import itertools

import pytest

from handlers.errors import StoreUnavailable
from handlers.stores.base import HEAD, Change, Entry
from tests.support.store_kinds import FAR, KINDS, put


@pytest.fixture
def store(kind, tmp_path):
    opened = kind.open(tmp_path)
    yield opened
    opened.close()


def contents(store):
    return dict(store.scan(b""))


def test_what_was_committed_is_read_in_the_order_asked(store):
    assert store.commit_many([put(b"a", b"1"), put(b"b", b"2", version=9)]) == [True, True]
    assert store.get_many([b"b", b"nothing", b"a"]) == [Entry(9, FAR, b"2"), None, Entry(1, FAR, b"1")]
    assert store.get_many([]) == []


@pytest.mark.parametrize(("prefix", "count"), [(b"m/a~", 3), (b"m/b~", 1), (b"m/", 5), (b"m/c", 0), (b"", 6), (b"m/*~", 0), (b"m/a~9", 0)])
def test_the_keys_that_begin_with_a_prefix_are_counted(store, prefix, count):
    assert store.count(prefix, 10) == 0
    store.commit_many([put(key, b"x" * 100) for key in (b"m/a~1", b"m/a~2", b"m/a~3", b"m/b~1", b"m/z", b"n/a~1")])
    assert store.count(prefix, 10) == count
    assert min(store.count(prefix, 2), 2) == min(count, 2)


def test_nothing_to_commit_is_nothing_committed(store):
    assert store.commit_many([]) == []
    assert contents(store) == {}


@pytest.mark.parametrize("expected", [None, 1, 6, 2**63 - 1], ids=["none", "older", "newer", "largest"])
def test_a_change_that_expects_another_version_is_refused_and_changes_nothing(store, expected):
    store.commit_many([put(b"a", b"here", version=5)])
    assert store.commit_many([put(b"a", b"rival", version=7, expected=expected)]) == [False]
    assert store.get_many([b"a"]) == [Entry(5, FAR, b"here")]


@pytest.mark.parametrize("expected", [1, 2**63 - 1])
def test_a_change_of_what_is_not_there_is_refused(store, expected):
    assert store.commit_many([put(b"a", b"x", expected=expected)]) == [False]
    assert contents(store) == {}


def test_each_change_of_a_batch_stands_or_falls_for_itself(store):
    store.commit_many([put(b"b", b"old", version=3)])
    assert store.commit_many([put(b"a", b"new"), put(b"b", b"rival", version=4, expected=2), put(b"c", b"new")]) == [True, False, True]
    assert {key: entry.value for key, entry in contents(store).items()} == {b"a": b"new", b"b": b"old", b"c": b"new"}


def test_of_two_that_read_the_same_version_one_wins(store):
    store.commit_many([put(b"a", b"start")])
    assert store.commit_many([put(b"a", b"one", version=2, expected=1)]) == [True]
    assert store.commit_many([put(b"a", b"other", version=2, expected=1)]) == [False]
    assert store.get_many([b"a"]) == [Entry(2, FAR, b"one")]


@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256)) * 40, b"x" * 1_000_000], ids=["empty", "nul", "10 kB", "1 MB"])
def test_a_value_comes_back_byte_for_byte(store, value):
    entry = Entry(2**63 - 1, FAR + 0.1, value)
    assert store.commit_many([Change(b"k" * 400, None, entry)]) == [True]
    assert store.get_many([b"k" * 400]) == [entry]


def test_scan_gives_a_prefix_and_its_neighbours_not(store):
    keys = [b"a", b"a/", b"a/1", b"a/2", b"a0", b"b/1", b"a\xff"]
    store.commit_many([put(key, key) for key in keys])
    assert [key for key, _ in store.scan(b"a/")] == [b"a/", b"a/1", b"a/2"]
    assert [key for key, _ in store.scan(b"")] == sorted(keys)
    assert [entry.value for _, entry in store.scan(b"b")] == [b"b/1"]
    assert list(store.scan(b"c")) == []


@pytest.mark.parametrize("after", [b"", b"a/", b"a/1", b"a/15", b"a/3", b"a/9", b"b", b"A", b"\xff"])
def test_scan_goes_on_behind_a_key(store, after):
    keys = [b"a", b"a/1", b"a/2", b"a/3", b"b/1"]
    store.commit_many([put(key, key) for key in keys])
    assert [key for key, _ in store.scan(b"a/", after)] == [key for key in keys if key.startswith(b"a/") and key > after]
    assert [key for key, _ in store.scan(b"", after)] == [key for key in keys if key > after]


def test_a_sweep_forgets_what_is_past_its_time_and_nothing_else(store, kind):
    store.commit_many([put(b"%d" % n, b"", purge_at=FAR + n) for n in range(10)])
    removed = len(store.sweep(FAR + 5, 100).removed)  # the entry of FAR + 5 is at its time, not past it
    assert removed == (5 if kind.sweeps else 0)
    assert sorted(contents(store)) == [b"%d" % n for n in range(removed, 10)]
    assert not store.sweep(FAR + 5, 100).removed


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_slices_of_a_sweep_come_to_every_entry(store, kind, limit):
    keys = [b"%02d" % n for n in range(14)]
    store.commit_many([put(key, b"", purge_at=FAR if n % 3 else FAR + 9) for n, key in enumerate(keys)])
    removed = [len(store.sweep(FAR + 1, limit).removed) for _ in range(2 * len(keys) // limit + 4)]
    assert max(removed) <= limit
    assert sorted(contents(store)) == (keys[::3] if kind.sweeps else keys)
    assert sum(removed) == len(keys) - len(contents(store))


@pytest.mark.parametrize("limit", [3, 100])
def test_a_round_of_sweeping_sees_when_each_entry_that_stays_may_be_forgotten(store, limit):
    times = [FAR + n for n in range(10)]
    store.commit_many([put(b"%d" % n, b"", purge_at=purge_at) for n, purge_at in enumerate(times)])
    for _ in range(2):  # a round begins anew where the last one ended
        seen = []
        while not (swept := store.sweep(FAR, limit)).ends_round:
            seen += swept.kept
        assert set(seen + list(swept.kept)) == set(times)


def test_a_probe_leaves_nothing(store):
    store.commit_many([put(b"a", b"1")])
    before = contents(store)
    store.probe()
    assert (contents(store), store.usage().entries, store.check()) == (before, 1, [])


def test_usage_tells_how_many_entries_there_are_and_about_how_large(store):
    before = store.usage()
    store.commit_many([put(b"%03d" % n, b"x" * 1_000) for n in range(200)])
    after = store.usage()
    assert (before.entries, after.entries) == (0, 200)
    assert after.size - before.size >= 200_000


def test_of_what_a_sweep_removes_no_more_is_held_than_tells_what_it_was(store, kind):
    store.commit_many([put(b"a", bytes(range(200)) * 5_000, purge_at=FAR)])
    assert list(store.sweep(FAR + 1, 10).removed) == ([bytes(range(HEAD))] if kind.sweeps else [])


def test_an_entry_that_was_renewed_is_not_swept(store):
    store.commit_many([put(b"a", b"old", purge_at=FAR)])
    store.commit_many([put(b"a", b"new", version=2, expected=1, purge_at=FAR + 9)])
    assert not store.sweep(FAR + 1, 10).removed
    assert store.get_many([b"a"]) == [Entry(2, FAR + 9, b"new")]


def test_a_forgotten_key_is_free_again_and_no_late_change_brings_it_back(store):
    """Of 1970: a store that has a clock of its own forgets it at once, the others when they are swept."""
    store.commit_many([put(b"a", b"old", version=7, purge_at=1.0)])
    store.sweep(2.0, 10)
    assert store.commit_many([put(b"a", b"late", version=8, expected=7)]) == [False]
    assert store.commit_many([put(b"a", b"new")]) == [True]


def test_a_sound_store_says_so(store):
    store.commit_many([put(b"a", b"1"), put(b"b", b"2", version=2**63 - 1)])
    assert store.check() == []


def test_what_was_acknowledged_is_there_when_the_store_is_opened_again(durable, tmp_path):
    first = KINDS[durable].open(tmp_path)
    first.commit_many([put(b"a", b"1", version=4), put(b"b", b"2")])
    before = contents(first)
    first.close()
    second = KINDS[durable].open(tmp_path)
    assert contents(second) == before
    assert second.commit_many([put(b"a", b"late", expected=3)]) == [False]
    assert second.commit_many([put(b"a", b"next", version=5, expected=4)]) == [True]
    second.close()


def test_a_store_that_is_gone_is_unavailable_and_nothing_worse(durable, tmp_path):
    store = KINDS[durable].open(tmp_path)
    store.commit_many([put(b"a", b"1")])
    store.close()
    for work in (
        lambda: store.get_many([b"a"]),
        lambda: store.commit_many([put(b"a", b"2", expected=1)]),
        lambda: list(store.scan(b"")),
        lambda: store.check(),
        lambda: store.usage(),
        lambda: store.probe(),
        lambda: store.sweep(0.0, 10),
    ):
        with pytest.raises(StoreUnavailable):
            work()


def test_a_scan_that_is_left_early_holds_nothing_up(store):
    store.commit_many([put(b"%d" % n, b"") for n in range(5)])
    assert len(list(itertools.islice(store.scan(b""), 2))) == 2
    assert store.commit_many([put(b"x", b"")]) == [True]
    assert len(list(store.scan(b""))) == 6
