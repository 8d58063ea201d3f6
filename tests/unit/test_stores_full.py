"""A store that has no room for a whole batch commits what it has room for."""

import pytest

from handlers.stores.base import StoreFull
from handlers.stores.lmdb import EmbeddedStore
from handlers.stores.memory import MemoryStore
from handlers.stores.reopening import ReopeningStore
from tests.conftest import ask, make_service
from tests.support.requests import position, step
from tests.support.store_kinds import put
from tests.support.store_wrappers import Wrapped

PAGE = b"x" * 2_500  # takes a page of LMDB


class Roomy(Wrapped):
    """Has room for `room` changes in one commit, and never for an entry under `too_large`."""

    def __init__(self, room, too_large=b""):
        super().__init__(MemoryStore())
        self.room, self.too_large = room, too_large

    def commit_many(self, changes):
        if len(changes) > self.room or any(change.key == self.too_large for change in changes):
            raise StoreFull("full; nothing was applied", "full; nothing was applied")
        return super().commit_many(changes)


@pytest.fixture
def full(tmp_path):
    """A store of 200 entries that is so full that not all of them can be changed at once."""
    store = EmbeddedStore(str(tmp_path), 1 << 20)
    for n in range(200):
        assert store.commit_many([put(b"%03d" % n, PAGE)]) == [True]
    yield store
    store.close()


def changes(version):
    return [put(b"%03d" % n, PAGE, version=version + 1, expected=version) for n in range(200)]


def test_sessions_that_are_there_go_on_in_a_store_without_room_for_the_copies_of_a_batch(full):
    with pytest.raises(StoreFull, match="nothing was applied"):
        full.commit_many(changes(1))
    store = ReopeningStore(lambda: full)
    for version in range(1, 20):
        assert store.commit_many(changes(version)) == [True] * 200


@pytest.mark.parametrize("room", [1, 3, 100])
def test_a_change_that_does_not_fit_fails_alone_and_the_store_says_which(room):
    told = []
    store = ReopeningStore(lambda: Roomy(room, b"b"), told.append)
    with pytest.raises(StoreFull) as raised:
        store.commit_many([put(key, b"1") for key in (b"a", b"b", b"c", b"d", b"e")])
    assert raised.value.applied == [True, None, True, True, True]
    assert store.commit_many([put(b"a", b"2", 2, 9), put(b"c", b"2", 2, 1)]) == [False, True], "it does not pause after being full"
    assert told == [True, False, True]


def test_a_row_without_room_is_503_and_its_neighbours_are_served(two):
    store, x = ReopeningStore(lambda: Roomy(100, b"two/large")), two.sequence(2)
    service = make_service(two, store=store)
    replies = ask(service, *(step(id, 0, x) for id in ("a", "large", "b")))
    assert [status for status, _ in replies] == [200, 503, 200]
    assert (replies[1][1]["error"]["code"], replies[1][1]["error"]["message"]) == ("store_unavailable", "full; nothing was applied")
    assert (position(service, "a"), position(service, "b")) == (2, 2)
    assert [status for status, _ in ask(service, step("large", 2, x))] == [404]
