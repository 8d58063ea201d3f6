"""Earlier states of a session: kept apart from its record, in every kind of store, as many as configured and no more."""

import struct

import numpy as np
import pytest
from xxhash import xxh3_64_digest

from handlers.sessions.kept import pack_kept, unpack_kept
from handlers.sessions.record import HEADER, Record
from handlers.stores.base import Change, Entry, Parts
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import act, step
from tests.support.store_wrappers import Broken, Wrapped

KEY = b"two/a"


@pytest.fixture
def store(kind, tmp_path):
    opened = kind.open(tmp_path)
    yield opened
    opened.close()


def advance(service, x, start, stop):
    for n in range(start, stop):
        answer(service, step("a", n, x[n : n + 1]))


def back(to, id="a"):
    return {"session": {"id": id, "action": "rewind", "step": to}}


def record_of(store):
    return Record.decode(store.get_many([KEY])[0].value)


def stored(store, upto=20):
    """The positions of the earlier states that the store holds."""
    return [at for at, part in enumerate(store.get_parts(KEY, range(upto))) if part is not None]


def test_a_step_writes_one_earlier_state_and_removes_the_one_that_is_not_kept_any_more(two, store):
    seen = Commits(store)
    service, x = make_service(two, store=seen, keep_versions=3), two.sequence(9)
    advance(service, x, 0, 8)
    assert (stored(store), record_of(store).kept, record_of(store).unstored) == ([5, 6, 7], (7, 6, 5), ())
    [last] = seen.changes
    assert ([number for number, _ in last.parts.put], last.parts.remove) == ([7], [4])
    assert len(last.entry.value) < 3 * len(last.parts.put[0][1])


class Commits(Wrapped):
    """Keeps the changes of the last commit."""

    def commit_many(self, changes):
        self.changes = changes
        return super().commit_many(changes)


@pytest.mark.parametrize("to", [5, 6, 7, 8])
def test_a_stream_goes_on_from_every_kept_state_and_those_behind_it_stay(two, store, to):
    service, x = make_service(two, store=store, keep_versions=3), two.sequence(12)
    advance(service, x, 0, 8)
    assert answer(service, back(to))["session"]["step"] == to
    assert stored(store) == [at for at in (5, 6, 7) if at < to]
    other = two.sequence(4, seed=5)
    reply = answer(service, step("a", to, other))
    assert_close(reply["prediction"], eager.run(two.model, [*x[:to], *other]).prediction, f"after a rewind to {to}")
    assert stored(store) == [*(at for at in (5, 6, 7) if at < to), to][-3:]
    for earlier in reversed(record_of(store).kept):
        assert unpack_kept(store.get_parts(KEY, [earlier])[0]).position == earlier
    assert refusal(service, back(4))[2]["message"].startswith("session.step: 4 is not kept")


def test_requests_of_one_batch_see_the_earlier_states_of_each_other(two, store):
    service, x = make_service(two, store=store, keep_versions=2), two.sequence(9)
    advance(service, x, 0, 3)
    batch = [step("a", 3, x[3:5]), step("a", 5, x[5:6]), back(5), back(2), step("a", 2, x[2:4]), step("a", 4, x[4:5])]
    statuses = [status for status, _ in ask(service, *batch)]
    assert statuses == [200, 200, 200, 422, 409, 409]  # only 5 and 3 are kept when 2 is asked for
    assert answer(service, back(3))["session"]["step"] == 3
    assert_close(answer(service, step("a", 3, x[3:6]))["prediction"], eager.run(two.model, x[:6]).prediction, "after both rewinds")


def test_fewer_versions_than_before_are_removed_at_the_next_step_and_none_at_all_too(two, store):
    x = two.sequence(12)
    advance(make_service(two, store=store, keep_versions=6), x, 0, 8)
    assert stored(store) == [2, 3, 4, 5, 6, 7]
    advance(make_service(two, store=store, keep_versions=2), x, 8, 9)
    assert stored(store) == [7, 8]
    advance(make_service(two, store=store), x, 9, 10)
    assert stored(store) == []
    advance(make_service(two, store=store, keep_versions=6), x, 10, 12)
    assert stored(store) == [10, 11]


@pytest.mark.parametrize(
    "end", [act("a", "close"), {"inputs": [[0.0] * 3], "session": {"id": "a", "restart": True}}], ids=["close", "again"]
)
def test_a_session_that_ended_leaves_no_earlier_states(two, store, end):
    clock = Clock()
    service, x = make_service(two, store=store, clock=clock, keep_versions=3, session_ttl=60.0, tombstone_ttl=600.0), two.sequence(9)
    advance(service, x, 0, 5)
    if "inputs" in end:  # it expires, and begins anew
        clock.now += 100
        answer(service, step("a", 0, x[:1]))
        assert stored(store) == [0]
    else:
        answer(service, end)
        assert stored(store) == []


def test_another_tenants_session_of_the_same_id_has_states_of_its_own(two, store):
    service, x = make_service(two, store=store, keep_versions=3), two.sequence(9)
    advance(service, x, 0, 4)
    [entry] = store.get_many([KEY])
    assert store.commit_many([Change(b"two/acme~a", None, entry, Parts([(3, b"other")], []))]) == [True]
    assert answer(service, back(3))["session"]["step"] == 3
    assert store.get_parts(b"two/acme~a", [3]) == [b"other"]


def test_a_fork_has_none_and_takes_none(two, store):
    service, x = make_service(two, store=store, keep_versions=3), two.sequence(9)
    advance(service, x, 0, 5)
    answer(service, act("a", "fork", to="b"))
    answer(service, step("b", 5, x[5:6]))
    assert refusal(service, back(3, "b"))[2]["message"].endswith("kept: 6, 5 (keep_versions is 3)")
    answer(service, act("b", "close"))
    assert answer(service, back(3))["session"]["step"] == 3


def test_a_rewind_while_the_store_cannot_tell_the_state_is_503_and_changes_nothing(two):
    store = Broken(MemoryStore())
    service, x = make_service(two, store=store, keep_versions=3), two.sequence(9)
    advance(service, x, 0, 5)
    store.away = {"parts"}
    assert refusal(service, back(3))[:2] == (503, "store_unavailable")
    store.away = set()
    assert answer(service, act("a", "describe"))["session"]["step"] == 5


@pytest.mark.parametrize("damage", ["missing", "damaged", "other", "newer"])
def test_an_earlier_state_that_cannot_be_read_is_told_and_the_session_goes_on(two, store, damage):
    service, x = make_service(two, store=store, keep_versions=3), two.sequence(9)
    advance(service, x, 0, 5)
    [entry], [good, other] = store.get_many([KEY]), store.get_parts(KEY, [3, 4])
    newer = b"CSKS\2" + good[5:-8]
    bad = {"damaged": good[:40] + b"!" + good[41:], "other": other, "newer": newer + xxh3_64_digest(newer)}
    parts = Parts([], [3]) if damage == "missing" else Parts([(3, bad[damage])], [])
    assert store.commit_many([Change(KEY, entry.version, Entry(entry.version + 1, entry.purge_at, entry.value), parts)]) == [True]
    status, code, error = refusal(service, back(3))
    assert (status, code) == (503, "session_unreadable")
    assert "earlier state" in error["message"]
    assert answer(service, back(4))["session"]["step"] == 4
    advance(service, x, 4, 9)


def test_a_rewind_that_another_worker_overtakes_between_record_and_state_is_told_to_try_again(two):
    class Overtaken(Wrapped):
        def get_parts(self, key, numbers):
            if not self.done:
                self.done = True
                advance(rival, x, 5, 9)  # its steps drop the state that is asked for
            return super().get_parts(key, numbers)

    inner, x = MemoryStore(), two.sequence(9)
    store = Overtaken(inner)
    store.done = False
    service, rival = make_service(two, store=store, keep_versions=3), make_service(two, store=inner, keep_versions=3)
    advance(rival, x, 0, 5)
    status, code, error = refusal(service, back(3))
    assert (status, code, error["retryable"]) == (429, "overloaded", True)
    assert refusal(service, back(3))[:2] == (422, "invalid_input")
    assert answer(service, act("a", "describe"))["session"]["step"] == 9


def inline(record, earlier):
    """The record, without recent inputs, as the release before wrote it: the earlier states and their forecasts within it."""
    whole, states = record.encode()[:-8], (record.state, *earlier)
    forecasts = b"".join(struct.pack("<H", len(state.forecast)) + state.forecast for state in states)
    *head, _ = HEADER.unpack_from(whole)
    head[1] = 2
    start = HEADER.size + len(record.version) + len(record.answer)
    packed = b"".join(struct.pack("<Q", state.position) + state.values.tobytes() for state in states)
    body = HEADER.pack(*head, len(forecasts)) + whole[HEADER.size : start] + packed + forecasts
    return body + xxh3_64_digest(body)


def test_a_record_of_the_release_before_goes_on_and_its_earlier_states_move_out_of_it(two, store):
    service, x = make_service(two, store=store, keep_versions=3), two.sequence(9)
    advance(service, x, 0, 6)
    [entry] = store.get_many([KEY])
    earlier = [unpack_kept(part) for part in store.get_parts(KEY, [5, 4, 3])]
    old = inline(record_of(store), earlier)
    changed = Change(KEY, entry.version, Entry(entry.version + 1, entry.purge_at, old), Parts([], [3, 4, 5]))
    assert (store.commit_many([changed]), stored(store)) == ([True], [])
    assert [pack_kept(state) for state in record_of(store).unstored] == [pack_kept(state) for state in earlier]

    assert answer(service, back(4))["session"]["step"] == 4
    assert (stored(store), record_of(store).unstored) == ([3], ())
    assert_close(answer(service, step("a", 4, x[4:7]))["prediction"], eager.run(two.model, x[:7]).prediction, "from an old record")
    assert stored(store) == [3, 4]
    assert np.array_equal(unpack_kept(store.get_parts(KEY, [3])[0]).values, earlier[2].values)
