"""A quota keeps new sessions out and lets those that are there go on."""

from contextlib import suppress

import pytest

from handlers.errors import QuotaExceeded
from handlers.sessions.quota import Quota
from handlers.settings import Settings
from handlers.stores.base import Usage
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, answer, ask, make_service, refusal
from tests.support.requests import contents, step
from tests.support.store_wrappers import Broken, Wrapped


def full(two, store, **settings):
    """A service whose store holds the sessions a and b, which are all that it may."""
    service = make_service(two, store=store, **({"max_sessions": 2} | settings))
    ask(service, step("a", 0, two.sequence(2)), step("b", 0, two.sequence(2)))
    return service


def begins(two, state):
    """Every way in which a session may begin."""
    row = two.sequence(1).tolist()
    return {
        "a step": {"inputs": row, "session": {"id": "new", "step": 0}},
        "a step with a state": {"inputs": row, "session": {"id": "new", "step": 0}, "state": state},
        "an id of the server's": {"inputs": row, "session": {}},
        "a fork": {"session": {"id": "a", "action": "fork", "to": "new"}},
        "an import": {"session": {"id": "new", "action": "import"}, "state": state},
    }


def test_no_session_more_than_the_quota_begins_in_whatever_way_and_nothing_is_changed(two, kind, tmp_path):
    store = kind.open(tmp_path)
    service = full(two, store)
    state = answer(service, {"session": {"id": "a", "action": "export"}})["state"]
    before = contents(store)
    for way, request in begins(two, state).items():
        status, code, error = refusal(service, request)
        assert (status, code, error["retryable"], error["details"]) == (429, "quota_exceeded", True, {"limit": 2}), way
        assert "2 sessions, at most 2 (max_sessions)" in error["message"]
    assert contents(store) == before
    store.close()


def test_the_sessions_that_are_there_do_all_they_could_before(two):
    service = full(two, MemoryStore(), keep_versions=2)
    x = two.sequence(3)
    for request in (
        step("a", 2, x),
        step("a", 2, x),
        {"session": {"id": "a", "action": "rewind", "step": 2}},
        {"session": {"id": "a", "action": "describe"}},
        {"inputs": x.tolist(), "session": {"id": "b", "step": 2}, "commit": False},
        {"session": {"id": "b", "action": "close"}},
        {"inputs": x.tolist()},
    ):
        answer(service, request)


def test_what_the_sweep_removed_makes_room(two):
    clock = Clock()
    service = full(two, MemoryStore(), clock=clock, session_ttl=10.0, tombstone_ttl=5.0)
    clock.now += 16
    answer(service, {"inputs": two.sequence(1).tolist()})  # the sweep comes by
    service.frontend.service.context.quota._looked_at = float("-inf")  # a second passes
    answer(service, step("new", 0, two.sequence(1)))


def test_in_one_batch_as_many_begin_as_there_is_room_for(two):
    service = make_service(two, max_sessions=3)
    statuses = [status for status, _ in ask(service, *(step(f"s{n}", 0, two.sequence(1)) for n in range(8)))]
    assert sorted(statuses) == [200] * 3 + [429] * 5


def test_a_what_if_needs_no_room_and_takes_none(two):
    row = two.sequence(1)
    service = make_service(two, max_sessions=1)
    assert [status for status, _ in ask(service, step("a", 0, row, commit=False), step("a", 0, row), step("b", 0, row, commit=False))] == [
        200
    ] * 3


def test_bytes_are_a_quota_too(two, kind, tmp_path):
    store = kind.open(tmp_path)
    ask(make_service(two, store=store), step("a", 0, two.sequence(1)))
    service = make_service(two, store=store, max_stored_bytes=1)
    status, code, error = refusal(service, step("b", 0, two.sequence(1)))
    assert (status, code) == (429, "quota_exceeded")
    assert "no new session from 1 on (max_stored_bytes)" in error["message"]
    answer(service, step("a", 1, two.sequence(1)))
    store.close()


@pytest.mark.parametrize(("capacity", "size", "admits"), [(8_000, 6_999, 1), (8_000, 7_000, 0), (0, 10**15, 1)])
def test_without_a_quota_of_bytes_an_eighth_of_the_store_is_kept_for_the_sessions_that_are_there(capacity, size, admits):
    store = Counted(1)
    store.size, store.capacity = size, capacity
    assert admitted(Quota(store, Settings(), Clock()), 1) == admits


def test_two_workers_that_create_as_fast_as_they_can_come_to_the_quota_and_not_far_beyond(two):
    """Each sees the other's when it looks; what is under way in the other's batch it cannot see."""
    store = MemoryStore()
    one, other = (make_service(two, store=store, max_sessions=200) for _ in range(2))
    for n in range(20):
        for service, name in ((one, "one"), (other, "other")):
            ask(service, *(step(f"{name}-{n}-{i}", 0, two.sequence(1)) for i in range(16)))
    assert 200 <= store.usage().entries <= 200 + 16


class Counted(Wrapped):
    """A store of so many entries that counts how often it is asked."""

    def __init__(self, entries):
        super().__init__(MemoryStore())
        self.entries, self.looks, self.size, self.capacity = entries, 0, 0, 0

    def usage(self):
        self.looks += 1
        return Usage(self.entries, self.size, self.capacity)


def admitted(quota, tries):
    """How many of so many sessions there was room for."""
    count = 0
    for _ in range(tries):
        with suppress(QuotaExceeded):
            quota.admit()
            count += 1
    return count


@pytest.mark.parametrize("limit", [0, 10_000])
def test_far_from_the_quota_the_store_is_asked_once_a_second(limit):
    store, clock = Counted(10), Clock()
    quota = Quota(store, Settings(max_sessions=limit), clock)
    for seconds in range(3):
        assert admitted(quota, 100) == 100
        assert store.looks == seconds + 1
        clock.now += 1.0


def test_near_the_quota_it_is_asked_for_each_session_as_others_may_have_come_meanwhile():
    store = Counted(1_996)
    quota = Quota(store, Settings(max_sessions=2_000), Clock())
    assert admitted(quota, 3) == 3
    store.entries = 2_000
    assert admitted(quota, 3) == 0


def test_near_the_end_of_its_disk_the_store_is_asked_before_the_reserve_is_used_up():
    """In a second of many new sessions the reserve of a small disk would otherwise be gone."""
    store = Counted(100)
    store.size, store.capacity = 100 * 4_096, 8_000_000
    quota = Quota(store, Settings(), Clock())
    count = 0
    with suppress(QuotaExceeded):
        for _ in range(10_000):
            quota.admit()
            count += 1
            store.size, store.entries = store.size + 4_096, store.entries + 1
    assert store.size <= 7_000_000 + 100 * 4_096
    assert 1_500 < count < 1_750
    assert store.looks < 40


def test_once_full_it_is_asked_once_a_second_again():
    store, clock = Counted(100), Clock()
    quota = Quota(store, Settings(max_sessions=100), clock)
    assert admitted(quota, 50) == 0
    assert store.looks == 1
    store.entries, clock.now = 99, clock.now + 1.0
    assert admitted(quota, 1) == 1


def test_a_store_that_cannot_tell_how_full_it_is_takes_no_new_session(two):
    service = full(two, Broken(MemoryStore()))
    context = service.frontend.service.context
    context.store.away.add("usage")
    context.quota._looked_at = float("-inf")
    assert refusal(service, step("new", 0, two.sequence(1)))[:2] == (503, "store_unavailable")
    answer(service, step("a", 2, two.sequence(1)))
