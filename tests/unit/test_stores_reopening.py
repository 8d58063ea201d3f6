"""A store that goes away and comes back: calls fail at once meanwhile, and succeed again soon."""

import itertools
from contextlib import closing

import pytest

from handlers.errors import ConfigurationError, StoreUnavailable
from handlers.stores.lmdb import EmbeddedStore
from handlers.stores.memory import MemoryStore
from handlers.stores.reopening import MAX_PAUSE, REOPEN_AFTER, ReopeningStore
from tests.support.store_kinds import put
from tests.support.store_wrappers import Wrapped


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Server(Wrapped):
    """A store whose server is up or down; each call takes `takes` seconds of the clock."""

    def __init__(self, clock):
        super().__init__(MemoryStore())
        self.clock, self.up, self.takes, self.opened, self.calls = clock, True, 0.0, 0, 0

    def open(self):
        self.opened += 1
        self.reach()
        return self

    def reach(self):
        self.calls += 1
        self.clock.now += self.takes
        if not self.up:
            raise StoreUnavailable("store valkey://here: refused; nothing was applied")

    def get_many(self, keys):
        self.reach()
        return super().get_many(keys)

    def commit_many(self, changes):
        self.reach()
        return super().commit_many(changes)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server(clock):
    return Server(clock)


@pytest.fixture
def changes():
    return []


@pytest.fixture
def store(server, clock, changes):
    return ReopeningStore(server.open, changes.append, clock)


def test_every_call_is_passed_on(store, changes):
    assert store.commit_many([put(b"a", b"1")]) == [True]
    assert store.get_many([b"a"]) == [put(b"a", b"1").entry]
    assert list(store.scan(b"")) == list(store.scan(b"", b"A")) == [(b"a", put(b"a", b"1").entry)]
    assert store.usage().entries == 1
    assert store.check() == []
    store.probe()
    assert store.sweep(0.0, 10).ends_round
    assert changes == [True]


def test_a_worker_starts_without_its_store_and_opens_it_soon_after_it_is_there(server, clock, changes):
    server.up = False
    store = ReopeningStore(server.open, changes.append, clock)
    for _ in range(50):
        with pytest.raises(StoreUnavailable, match="refused a moment ago; nothing was applied"):
            store.get_many([b"a"])
    assert server.opened == 1, "calls fail at once"
    server.up = True
    clock.now += REOPEN_AFTER
    assert store.get_many([b"a"]) == [None]
    assert changes == [False, True]


def test_a_store_that_stays_away_is_tried_at_its_pace_and_logged_once(server, clock, caplog):
    server.up = False
    store = ReopeningStore(server.open, clock=clock)
    for _ in range(100):
        clock.now += 0.1
        with pytest.raises(StoreUnavailable):
            store.commit_many([put(b"a", b"1")])
    assert server.opened == pytest.approx(10.0 / REOPEN_AFTER, abs=3)
    assert caplog.text.count("store_unavailable") == 1


def test_a_store_that_refuses_quickly_is_asked_each_time(store, server, changes):
    server.up = False
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="refused; nothing"):
            store.get_many([b"a"])
    server.up = True
    assert store.get_many([b"a"]) == [None]
    assert changes == [True, False, True]


@pytest.mark.parametrize(("takes", "pause"), [(0.2, 0.2), (5.0, MAX_PAUSE)])
def test_after_a_call_that_failed_slowly_the_next_ones_fail_at_once_for_a_while(store, server, clock, takes, pause):
    server.up, server.takes = False, takes
    for call in (lambda: store.get_many([b"a"]), lambda: store.commit_many([put(b"a", b"1")])):
        with pytest.raises(StoreUnavailable):
            call()
    assert server.calls == 1 + 1, "one to open the store, one that failed"
    server.up, server.takes = True, 0.0
    clock.now += pause
    assert store.get_many([b"a"]) == [None]


def test_it_is_available_again_only_when_what_failed_succeeds(store, server, changes, clock):
    server.up = False
    with pytest.raises(StoreUnavailable):
        store.commit_many([put(b"a", b"1")])
    server.up = True
    store.get_many([b"a"])
    assert changes == [True, False], "it can be read, and nobody knows whether it can be written"
    store.commit_many([put(b"a", b"1")])
    assert changes == [True, False, True]


def test_a_wrong_configuration_ends_the_start_and_is_unavailable_later(server, clock):
    def refused():
        raise ConfigurationError("store: its maxmemory-policy may drop live sessions")

    with pytest.raises(ConfigurationError):
        ReopeningStore(refused, clock=clock)
    opens = itertools.chain([StoreUnavailable("store: away; nothing was applied"), ConfigurationError("store: its maxmemory-policy")])

    def changed():
        raise next(opens)

    store = ReopeningStore(changed, clock=clock)
    clock.now += REOPEN_AFTER
    with pytest.raises(StoreUnavailable, match="maxmemory-policy"):
        store.get_many([b"a"])


def test_a_store_that_opens_and_cannot_be_written_is_closed_and_opened_anew(tmp_path, clock):
    """LMDB refuses to open a folder a second time in one process while it is open."""

    class ReadOnly(EmbeddedStore):
        writable = False

        def _probe(self):
            if not ReadOnly.writable:
                raise OSError("read-only file system")
            super()._probe()

    with closing(ReopeningStore(lambda: ReadOnly(str(tmp_path), 1 << 20), clock=clock)) as store:
        with pytest.raises(StoreUnavailable, match="read-only file system"):
            store.get_many([b"a"])
        ReadOnly.writable = True
        clock.now += REOPEN_AFTER
        assert store.commit_many([put(b"a", b"1")]) == [True]


def test_a_file_that_was_cut_off_is_opened_once_a_sound_copy_is_there(tmp_path, clock):
    path = tmp_path / "data.mdb"
    with closing(EmbeddedStore(str(tmp_path), 1 << 26)) as store:
        store.commit_many([put(b"%d" % n, b"x" * 100_000) for n in range(100)])
    sound = path.read_bytes()
    path.write_bytes(sound[: len(sound) // 2])
    with closing(ReopeningStore(lambda: EmbeddedStore(str(tmp_path), 1 << 26), clock=clock)) as store:
        path.write_bytes(sound)
        clock.now += REOPEN_AFTER
        assert store.usage().entries == 100
