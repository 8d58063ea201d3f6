"""Going back: to any kept position, never to another, and the stream goes on from there as if what came after had not been."""

import pytest

from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, position, step


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


@pytest.mark.parametrize("claim", [{"generation": 0}, {"from": 7, "generation": 0}], ids=["generation", "generation and from"])
def test_a_late_duplicate_of_a_rewind_is_refused_by_its_generation_wherever_the_session_is(two, service, store, claim):
    """Four corrected steps on, the session is back at the very position that the rewind came from."""
    request, x = rewind(3, **claim), two.sequence(4, seed=5)
    assert answer(service, request)["session"]["generation"] == 1
    for n in range(3, 7):
        answer(service, step("a", n, x[n - 3 : n - 2]))
    before = contents(store)
    status, code, error = refusal(service, request)
    assert (status, code, error["details"]) == (409, "step_conflict", {"session": "a", "expected": 7, "generation": 1})
    assert contents(store) == before


def test_an_old_delivery_of_a_step_that_was_undone_is_refused_by_its_generation(two, service, store):
    undone = step("a", 3, two.sequence(7)[3:6])
    undone["session"]["generation"] = 0
    answer(service, rewind(3))
    before = contents(store)
    status, code, error = refusal(service, undone)
    assert (status, code, error["details"]["generation"]) == (409, "step_conflict", 1)
    assert "at step 3 of generation 1" in error["message"]
    assert contents(store) == before
    undone["session"]["generation"] = 1
    assert answer(service, undone)["session"]["step"] == 6


def test_a_step_without_a_step_number_may_carry_its_generation(two, service):
    answer(service, rewind(3))
    x = two.sequence(1)
    for generation, status in ((0, 409), (1, 200)):
        [(found, _)] = ask(service, {"inputs": x.tolist(), "session": {"id": "a", "generation": generation}})
        assert found == status


def test_a_rewind_to_the_current_position_keeps_the_last_answer(two, service):
    last = step("a", 6, two.sequence(7)[6:])
    first = answer(service, last)
    back = answer(service, rewind(7))["session"]
    assert (back["step"], back["generation"]) == (7, 1)
    again = answer(service, last)
    assert (again["prediction"], again["session"]["replayed"], again["session"]["generation"]) == (first["prediction"], True, 1)
    assert answer(service, rewind(7))["session"]["replayed"] is True


def test_generations_count_up_survive_steps_and_begin_anew_with_a_fork(two, service):
    for generation, to in enumerate((6, 3, 2), start=1):
        assert answer(service, rewind(to))["session"]["generation"] == generation
    assert answer(service, step("a", 2, two.sequence(1)))["session"]["generation"] == 3
    assert answer(service, act("a", "describe"))["session"]["generation"] == 3
    assert answer(service, act("a", "fork", to="b"))["session"]["generation"] == 0
    assert answer(service, act("a", "close"))["session"]["generation"] == 3


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
