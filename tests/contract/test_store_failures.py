"""A store that is away, full, or holds something broken: what cannot be served says so, all else is served, nothing is half done."""

import pytest

from handlers.sessions.record import FORMAT
from handlers.stores.base import Change, Entry
from handlers.stores.lmdb import EmbeddedStore
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, position, step
from tests.support.store_wrappers import Broken, GoesAway


@pytest.mark.parametrize("away", ["read", "commit"])
def test_a_store_that_is_away_is_503_for_sessions_and_nothing_to_all_else(two, away):
    inner, x = MemoryStore(), two.sequence(4)
    store = Broken(inner)
    service = make_service(two, store=store)
    answer(service, step("a", 0, x[:2]))
    before = contents(inner)
    store.away = {away}
    batch = [step("a", 2, x[2:]), {"inputs": x.tolist()}, step("new", 0, x), {"inputs": [[1]]}, act("a", "fork", to="b"), act("a", "close")]
    replies = ask(service, *batch)
    assert [status for status, _ in replies] == [503, 200, 503, 422, 503, 503]
    for (_, reply), request in zip(replies, batch, strict=True):
        if "session" in request:
            assert (reply["error"]["code"], reply["error"]["retryable"]) == ("store_unavailable", True)
    assert_close(replies[1][1]["prediction"], eager.run(two.model, x).prediction, "the row without a session")
    assert contents(inner) == before
    store.away = set()
    reply = answer(service, batch[0])
    assert (reply["session"]["step"], reply["session"]["replayed"]) == (4, False)
    assert_close(reply["prediction"], eager.run(two.model, x).prediction, "the same step, when the store was back")


def test_what_only_reads_is_answered_by_a_store_that_cannot_write(two):
    store, x = Broken(MemoryStore()), two.sequence(3)
    service = make_service(two, store=store)
    request = step("a", 0, x)
    answer(service, request)
    store.away = {"commit"}
    assert answer(service, request)["session"]["replayed"]
    assert position(service, "a") == 3
    assert "state" in answer(service, act("a", "export"))
    assert answer(service, step("a", 3, x, commit=False))["session"]["step"] == 3


def test_a_batch_of_two_sessions_of_which_neither_can_be_written_commits_neither(two, tmp_path):
    """A full disk: one transaction, all of it or nothing; what was acknowledged before is still there."""
    store, x = EmbeddedStore(str(tmp_path), 1 << 20), two.sequence(900)
    service = make_service(two, store=store, max_reply=1 << 30)
    answer(service, step("a", 0, x[:2]))
    before = contents(store)
    bulky = {"return": ["output"]}
    replies = ask(service, *(step(f"s{n}", 0, x, **bulky) for n in range(60)), step("a", 2, x[2:3]))
    assert {status for status, _ in replies} == {503}
    assert "store_bytes" in replies[0][1]["error"]["message"]
    assert contents(store) == before
    assert answer(service, step("a", 2, x[2:3]))["session"]["step"] == 3
    store.close()


def test_a_store_that_goes_away_amid_a_batch_is_503_for_what_was_not_applied_only(two):
    """A fork of a session that the same batch has moved is committed behind it."""
    inner, x = MemoryStore(), two.sequence(4)
    answer(make_service(two, store=inner), step("a", 0, x[:2]))
    service = make_service(two, store=GoesAway(inner, after=1))
    (stepped, reply), (forked, error) = ask(service, step("a", None, x[2:3]), act("a", "fork", to="b"))
    assert (forked, error["error"]["code"]) == (503, "store_unavailable")
    at = position(make_service(two, store=inner), "a")
    assert (stepped, at) in ((200, 3), (503, 2)), f"answered {stepped}, and the session is at {at}: {reply}"


def test_a_sweep_that_fails_is_nobodys_error(two):
    clock = Clock()
    service = make_service(two, store=Broken(MemoryStore(), "sweep"), clock=clock, sweep_interval=1.0)
    clock.now += 10
    assert answer(service, step("a", 0, two.sequence(1)))["session"]["step"] == 1


def flipped(entry):
    middle = len(entry.value) // 2
    return entry.value[:middle] + bytes([entry.value[middle] ^ 1]) + entry.value[middle + 1 :]


BROKEN = {"one bit": flipped, "cut short": lambda entry: entry.value[:30], "empty": lambda _: b"", "not ours": lambda _: b"hello" * 99}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_a_record_that_cannot_be_read_is_one_sessions_503_and_is_left_as_it_is(two, damage):
    store, x = MemoryStore(), two.sequence(4)
    service = make_service(two, store=store)
    ask(service, step("bad", 0, x[:2]), step("good", 0, x[:2]))
    [(key, entry)] = store.scan(b"two/bad")
    store.commit_many([Change(key, entry.version, Entry(entry.version + 1, entry.purge_at, damage(entry)))])
    before = dict(store.scan(key))
    batch = [step("bad", 2, x[2:]), step("good", 2, x[2:]), act("bad", "close"), step("bad", 0, x), act("good", "fork", to="bad")]
    replies = ask(service, *batch)
    assert [status for status, _ in replies] == [503, 200, 503, 503, 503]
    error = replies[0][1]["error"]
    assert (error["code"], error["details"], "retryable" in error) == ("session_unreadable", {"session": "bad"}, False)
    assert dict(store.scan(key)) == before
    assert position(service, "good") == 4


def test_a_record_of_a_newer_release_is_unreadable_and_left_as_it_is(two):
    store = MemoryStore()
    service = make_service(two, store=store)
    answer(service, step("a", 0, two.sequence(1)))
    [(key, entry)] = store.scan(b"")
    newer = bytes([*entry.value[:4], FORMAT + 1, *entry.value[5:]])
    store.commit_many([Change(key, entry.version, Entry(entry.version + 1, entry.purge_at, newer))])
    before = contents(store)
    status, code, error = refusal(service, step("a", 1, two.sequence(1)))
    assert (status, code) == (503, "session_unreadable")
    assert f"format {FORMAT + 1}, this release reads 1 to {FORMAT}" in error["message"]
    assert contents(store) == before
