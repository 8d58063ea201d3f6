"""Two workers over one store. One wins, the other reads again: no step is lost, none is applied twice, nobody sees what never was."""

import itertools

import numpy as np
import pytest

from tests.conftest import answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, fields, position, raw, step
from tests.support.store_wrappers import Overtaken


@pytest.fixture
def shared(kind, tmp_path):
    opened = kind.open(tmp_path)
    yield opened
    opened.close()


def pair(model, shared, *acts, **settings):
    """(ours, rival, our store): before each of our commits the rival sends the next of `acts`."""
    rival = make_service(model, store=shared)
    store = Overtaken(shared, *((lambda item=item: answer(rival, item)) for item in acts))
    return make_service(model, store=store, **settings), rival, store


def h_n(service, id):
    """The session's state, seen without moving it, as the eager model would continue from it."""
    probe = np.zeros((1, 3), np.float32)
    return answer(service, step(id, None, probe, commit=False, **{"return": ["h_n"]}))["h_n"]


def assert_at(model, service, id, *pieces):
    """The session holds exactly these pieces, in this order."""
    x = np.concatenate(pieces)
    assert position(service, id) == len(x)
    probed = np.concatenate([x, np.zeros((1, 3), np.float32)])
    assert_close(h_n(service, id), eager.run(model.model, probed).h_n, f"state of {id} after {len(x)} steps")


def test_who_loses_at_a_step_is_told_where_the_session_is_now(two, shared):
    x = two.sequence(6)
    ours, rival, _ = pair(two, shared, step("a", 2, x[2:5]))
    answer(rival, step("a", 0, x[:2]))
    status, code, error = refusal(ours, step("a", 2, x[5:6]))
    assert (status, code, error["details"]["expected"]) == (409, "step_conflict", 5)
    assert_at(two, rival, "a", x[:5])


def test_the_same_step_sent_to_both_is_applied_once_and_answered_alike(two, shared):
    x = two.sequence(4)
    request = step("a", 2, x[2:], **{"return": ["prediction", "h_n", "state"]})
    ours, rival, _ = pair(two, shared, request)
    answer(rival, step("a", 0, x[:2]))
    mine = raw(ours, request)
    assert b'"replayed":true' in mine
    assert fields(mine) == fields(raw(rival, request))
    assert_at(two, rival, "a", x)


def test_without_a_step_the_loser_applies_behind_the_winner(two, shared):
    x = two.sequence(7)
    ours, rival, store = pair(two, shared, step("a", None, x[2:4]))
    answer(rival, step("a", 0, x[:2]))
    assert answer(ours, step("a", None, x[4:]))["session"]["step"] == 7
    assert store.commits == 2
    assert_at(two, rival, "a", x)


def test_of_two_that_create_a_session_one_does(two, shared):
    x = two.sequence(5)
    ours, rival, _ = pair(two, shared, step("a", 0, x[:2]))
    status, code, error = refusal(ours, step("a", 0, x[2:]))
    assert (status, code, error["details"]["expected"]) == (409, "session_exists", 2)
    assert_at(two, rival, "a", x[:2])


def test_a_session_closed_meanwhile_stays_closed(two, shared):
    x = two.sequence(3)
    ours, rival, _ = pair(two, shared, act("a", "close"))
    answer(rival, step("a", 0, x[:2]))
    assert refusal(ours, step("a", 2, x[2:]))[:2] == (410, "session_closed")
    assert position(rival, "a") == "session_closed"


def test_a_session_that_is_always_overtaken_is_overloaded_and_nothing_of_ours_is_applied(two, shared):
    x = two.sequence(10)
    ours, rival, store = pair(two, shared, *(step("a", None, x[n : n + 1]) for n in range(1, 4)), commit_attempts=3)
    answer(rival, step("a", 0, x[:1]))
    [(status, reply)] = ask(ours, step("a", None, x[9:]))
    assert (status, reply["error"]["code"], reply["error"]["retryable"]) == (429, "overloaded", True)
    assert store.commits == 3
    assert_at(two, rival, "a", x[:4])


def test_one_lost_session_leaves_the_batchs_others_applied_once(two, shared):
    x = two.sequence(8)
    ours, rival, _ = pair(two, shared, step("lost", 2, x[2:3]))
    ask(rival, step("lost", 0, x[:2]), step("kept", 0, x[:2]))
    batch = [step("kept", None, x[2:4]), step("lost", 2, x[3:5]), step("new", 0, x[4:]), step("kept", None, x[4:6])]
    replies = ask(ours, *batch)
    assert [status for status, _ in replies] == [200, 409, 200, 200]
    assert_at(two, rival, "kept", x[:6])
    assert_at(two, rival, "lost", x[:3])
    assert_at(two, rival, "new", x[4:])


def test_what_was_computed_from_a_lost_read_is_computed_again(two, shared):
    """Three requests of one batch, the first of which loses: all three follow the rival's step."""
    x = two.sequence(9)
    ours, rival, _ = pair(two, shared, step("a", None, x[2:4]))
    answer(rival, step("a", 0, x[:2]))
    replies = ask(ours, step("a", None, x[4:6]), step("a", None, x[6:8]), step("a", None, x[8:]))
    assert [reply["session"]["step"] for _, reply in replies] == [6, 8, 9]
    for (_, reply), end in zip(replies, (6, 8, 9), strict=True):
        assert_close(reply["prediction"], eager.run(two.model, x[:end]).prediction, f"prediction at {end}")
    assert_at(two, rival, "a", x)


def test_a_refusal_that_came_of_a_lost_read_is_decided_again(two, shared):
    """Behind our step the session would have been at 3, where 5 is a conflict; the rival's two make it right."""
    x = two.sequence(6)
    ours, rival, _ = pair(two, shared, step("a", None, x[2:4]))
    answer(rival, step("a", 0, x[:2]))
    replies = ask(ours, step("a", None, x[4:5]), step("a", 5, x[5:]))
    assert [status for status, _ in replies] == [200, 200], replies
    assert_at(two, rival, "a", x)


def test_a_what_if_beside_a_lost_step_shows_what_is(two, shared):
    x = two.sequence(5)
    ours, rival, _ = pair(two, shared, step("a", None, x[1:2]))
    answer(rival, step("a", 0, x[:1]))
    _, (_, reply) = ask(ours, step("a", None, x[2:3]), step("a", None, x[3:4], commit=False))
    assert reply["session"]["step"] == 3
    assert_close(reply["prediction"], eager.run(two.model, x[:4]).prediction, "the what-if follows both steps")


def test_a_fork_onto_an_id_that_was_taken_meanwhile_is_refused(two, shared):
    x = two.sequence(4)
    ours, rival, _ = pair(two, shared, step("b", 0, x[2:]))
    answer(rival, step("a", 0, x[:2]))
    assert refusal(ours, act("a", "fork", to="b"))[:2] == (409, "session_exists")
    assert_at(two, rival, "b", x[2:])


def test_a_fork_of_a_step_that_lost_is_no_fork_of_a_step_that_never_was(two, shared):
    """One batch steps a and forks it; the step loses to a rival. The fork may show any state that a has had, and only such a one."""
    x = two.sequence(6)
    ours, rival, _ = pair(two, shared, step("a", 2, x[2:3]))
    answer(rival, step("a", 0, x[:2]))
    (stepped, _), (forked, reply) = ask(ours, step("a", 2, x[3:5]), act("a", "fork", to="b"))
    assert stepped == 409
    assert_at(two, rival, "a", x[:3])
    assert forked == 200, reply
    assert_at(two, rival, "b", x[:3])


def test_a_step_of_a_fork_whose_source_lost_is_applied_once(two, shared):
    x = two.sequence(8)
    ours, rival, _ = pair(two, shared, step("a", None, x[2:3]))
    answer(rival, step("a", 0, x[:2]))
    replies = ask(ours, step("a", None, x[3:5]), act("a", "fork", to="b"), step("b", None, x[5:]))
    assert [status for status, _ in replies] == [200, 200, 200], replies
    assert_at(two, rival, "a", x[:5])
    assert_at(two, rival, "b", x[:5], x[5:])


@pytest.mark.parametrize("beside", ["a step of the copy", "a look at the source", "nothing else"])
def test_a_fork_that_was_done_is_not_done_again_when_a_neighbour_loses_its_source(two, shared, beside):
    """The copy is committed, a later request of the same batch on the source is not: only that one is served anew."""
    x = two.sequence(4)
    ours, rival, _ = pair(two, shared, step("a", 2, x[2:3]))
    answer(rival, step("a", 0, x[:2]))
    between = {"a step of the copy": [step("b", 2, x[3:])], "a look at the source": [act("a", "describe")], "nothing else": []}[beside]
    (forked, copy), *others, (late, conflict) = ask(ours, act("a", "fork", to="b"), *between, step("a", 2, x[3:]))
    assert (forked, copy["session"]["step"], copy["session"]["replayed"]) == (200, 2, False), copy
    assert [status for status, _ in others] == [200] * len(others)
    assert (late, conflict["error"]["details"]["expected"]) == (409, 3)
    assert_at(two, rival, "a", x[:3])
    assert_at(two, rival, "b", x[:2], *([x[3:]] if beside == "a step of the copy" else []))


def test_a_clients_retries_reach_both_workers_at_any_moment_and_come_out_as_one_stream(two, shared):
    """Between our read and our commit of each of three steps the rival gets nothing, the same step, or the one before it once more."""
    x = two.sequence(3)
    for number, late in enumerate(itertools.product(["nothing", "the same", "the one before"], repeat=3)):
        ours, rival, store = pair(two, shared)
        requests = [step(f"s{number}", n, x[n : n + 1]) for n in range(3)]
        for n, what in enumerate(late):
            duplicate = {"nothing": None, "the same": requests[n], "the one before": requests[max(n - 1, 0)]}[what]
            store.rivals = [] if duplicate is None else [lambda item=duplicate, worker=rival: answer(worker, item)]
            reply = answer(ours, requests[n])
            assert reply["session"]["step"] == n + 1
            assert_close(reply["prediction"], eager.run(two.model, x[: n + 1]).prediction, f"step {n} of {late}")
        assert_at(two, rival, f"s{number}", x)
    assert len(contents(shared)) == 27
