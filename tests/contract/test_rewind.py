"""Going back: to any kept position, never to another, and the stream goes on from there as if what came after had not been."""

import pytest

from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import contents, position, step


def rewind(to, **more):
    return {"session": {"id": "a", "action": "rewind", "step": to, **more}}


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def service(two, store):
    """Session "a" went to 2, 3, 6, 7 and keeps three earlier states."""
    made, x = make_service(two, store=store, keep_versions=3), two.sequence(7)
    for start, stop in ((0, 2), (2, 3), (3, 6), (6, 7)):
        answer(made, step("a", start, x[start:stop]))
    return made


@pytest.mark.parametrize("to", [2, 3, 6, 7])
def test_a_stream_goes_on_from_where_it_was_taken_back_to(two, service, to):
    session = answer(service, rewind(to))["session"]
    assert (session["id"], session["step"], session["replayed"]) == ("a", to, False)
    past, other = two.sequence(7)[:to], two.sequence(4, seed=5)
    reply = answer(service, step("a", to, other))
    together = [*past, *other]
    assert_close(reply["prediction"], eager.run(two.model, together).prediction, f"prediction after a rewind to {to}")


@pytest.mark.parametrize("to", [0, 1, 4, 5, 8, 2**53])
def test_a_position_that_is_not_kept_is_refused_with_those_that_are(service, store, to):
    before = contents(store)
    status, code, error = refusal(service, rewind(to))
    assert (status, code) == (422, "invalid_input")
    assert "kept: 7, 6, 3, 2" in error["message"]
    assert contents(store) == before


def test_a_first_request_can_be_taken_back_to_the_very_start(two):
    service, x = make_service(two, keep_versions=1), two.sequence(3)
    answer(service, step("a", 0, x))
    answer(service, rewind(0))
    assert_close(answer(service, step("a", 0, x[1:]))["prediction"], eager.run(two.model, x[1:]).prediction, "from the start again")


def test_without_kept_versions_there_is_no_way_back(two):
    service = make_service(two)
    answer(service, step("a", 0, two.sequence(2)))
    status, code, error = refusal(service, rewind(0))
    assert (status, code) == (422, "invalid_input")
    assert "keep_versions is 0" in error["message"]


def test_a_rewind_sent_again_is_answered_again_until_the_stream_went_on(two, service, store):
    answer(service, rewind(3))
    before = contents(store)
    assert answer(service, rewind(3))["session"]["replayed"] is True
    assert contents(store) == before
    answer(service, step("a", 3, two.sequence(1)))
    assert answer(service, rewind(3))["session"]["replayed"] is False


def test_a_late_duplicate_that_says_where_it_came_from_takes_nothing_back(two, service):
    request = rewind(3, **{"from": 7})
    answer(service, request)
    answer(service, step("a", 3, two.sequence(1)))
    status, code, error = refusal(service, request)
    assert (status, code, error["details"]["expected"]) == (409, "step_conflict", 4)
    assert position(service, "a") == 4


def test_what_was_taken_back_is_not_kept(service):
    answer(service, rewind(3))
    assert refusal(service, rewind(6))[1] == "invalid_input"
    assert answer(service, rewind(2))["session"]["step"] == 2


def test_a_rewind_and_a_step_in_one_batch_run_in_their_order(two, service):
    x = two.sequence(9)
    (_, back), (_, reply) = ask(service, rewind(2), step("a", 2, x[7:]))
    assert (back["session"]["step"], reply["session"]["step"]) == (2, 4)
    assert_close(reply["prediction"], eager.run(two.model, x[[0, 1, 7, 8]]).prediction, "prediction after both")
