"""Describe, fork, export, import, close: what each answers and what it leaves behind."""

import pytest

from handlers.sessions import state
from handlers.stores.memory import MemoryStore
from tests.conftest import BACKENDS, Clock, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, position, step


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def service(two, store):
    """Session "a" is at step 3."""
    made = make_service(two, store=store)
    answer(made, step("a", 0, two.sequence(6)[:3]))
    return made


def test_describe_tells_where_a_session_is_and_changes_nothing(two, service, store):
    before = contents(store)
    session = answer(service, act("a", "describe"))["session"]
    assert session.pop("rewarm").startswith("off: "), "this model's state is smaller than the inputs that it depends on"
    assert session == {
        "id": "a",
        "step": 3,
        "last_step": 0,
        "created_at": "2096-10-02T07:06:40Z",
        "expires_at": "2096-10-03T07:06:40Z",
        "replayed": False,
        "generation": 0,
        "model_digest": two.signature.digest.hex(),
    }
    assert contents(store) == before


def test_no_action_answers_with_a_prediction(service):
    for request in (act("a", "describe"), act("a", "export"), act("a", "fork", to="b"), act("a", "close")):
        assert set(answer(service, request)) <= {"model", "session", "state"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fork_goes_its_own_way_from_where_its_source_is(two, backend):
    service, x = make_service(two, backend), two.sequence(9)
    answer(service, step("a", 0, x[:3]))
    session = answer(service, act("a", "fork", to="b"))["session"]
    assert (session["id"], session["step"], session["replayed"]) == ("b", 3, False)
    ours = answer(service, step("a", 3, x[3:6]))["prediction"]
    theirs = answer(service, step("b", 3, x[6:]))["prediction"]
    assert_close(ours, eager.run(two.model, x[:6]).prediction, "the source")
    forked = two.sequence(9)[[0, 1, 2, 6, 7, 8]]
    assert_close(theirs, eager.run(two.model, forked).prediction, "the fork")


def test_a_fork_sent_again_is_answered_again_until_it_was_used(two, service, store):
    answer(service, act("a", "fork", to="b"))
    before = contents(store)
    again = answer(service, act("a", "fork", to="b"))["session"]
    assert (again["id"], again["step"], again["replayed"]) == ("b", 3, True)
    assert contents(store) == before
    answer(service, step("b", 3, two.sequence(1)))
    assert refusal(service, act("a", "fork", to="b"))[:2] == (409, "session_exists")


def test_a_fork_never_takes_a_session_that_is_there(two, service):
    answer(service, step("b", 0, two.sequence(2)))
    status, code, error = refusal(service, act("a", "fork", to="b"))
    assert (status, code, error["details"]) == (409, "session_exists", {"session": "b", "expected": 2, "generation": 0})
    assert position(service, "b") == 2


def test_a_fork_and_steps_of_both_in_one_batch_run_in_their_order(two, service):
    x = two.sequence(6)
    replies = ask(service, step("a", 3, x[3:4]), act("a", "fork", to="b"), step("a", 4, x[4:5]), step("b", 4, x[5:6]))
    assert [status for status, _ in replies] == [200] * 4
    assert_close(replies[2][1]["prediction"], eager.run(two.model, x[:5]).prediction, "the source")
    assert_close(replies[3][1]["prediction"], eager.run(two.model, x[[0, 1, 2, 3, 5]]).prediction, "the fork")


def test_an_export_is_imported_on_another_server_and_goes_on_there(two, service):
    x = two.sequence(6)
    exported = answer(service, act("a", "export"))
    assert exported["session"]["step"] == 3
    other = make_service(two, "torchscript", clock=Clock(4_100_000_000.0))
    session = answer(other, act("moved", "import", state=exported["state"]))["session"]
    assert (session["id"], session["step"]) == ("moved", 3)
    reply = answer(other, step("moved", 3, x[3:]))
    assert_close(reply["prediction"], eager.run(two.model, x).prediction, "prediction after the move")
    assert reply["session"]["step"] == 6


def test_an_import_sent_again_is_answered_again_and_another_one_is_refused(two, service):
    held = answer(service, act("a", "export"))["state"]
    answer(service, act("b", "import", state=held))
    assert answer(service, act("b", "import", state=held))["session"]["replayed"] is True
    answer(service, step("a", 3, two.sequence(1)))
    assert refusal(service, act("b", "import", state=answer(service, act("a", "export"))["state"]))[:2] == (409, "session_exists")
    assert refusal(service, act("a", "import", state=held))[:2] == (409, "session_exists")


def test_an_import_may_leave_the_id_to_the_server(service):
    held = answer(service, act("a", "export"))["state"]
    session = answer(service, {"session": {"action": "import"}, "state": held})["session"]
    assert position(service, session["id"]) == 3


def test_an_import_of_arrays_begins_at_0(two, service):
    held = answer(service, {"inputs": two.sequence(2).tolist(), "return": ["h_n", "c_n"]})
    arrays = {"h_n": held["h_n"], "c_n": held["c_n"]}
    assert answer(service, act("b", "import", state=arrays))["session"]["step"] == 0
    reply = answer(service, step("b", 0, two.sequence(4)[2:]))
    assert_close(reply["prediction"], eager.run(two.model, two.sequence(4)).prediction, "prediction after the import")


def test_a_first_step_may_bring_a_state_and_counts_from_0(two, service):
    x = two.sequence(6)
    held = answer(service, act("a", "export"))["state"]
    request = step("b", 0, x[3:], state=held)
    reply = answer(service, request)
    assert reply["session"]["step"] == 3
    assert_close(reply["prediction"], eager.run(two.model, x).prediction, "prediction from the state that was brought")
    assert answer(service, request)["session"]["replayed"]
    assert refusal(service, step("b", 0, x[3:]))[1] == "session_exists", "the same inputs without the state are another request"


def test_close_leaves_a_tombstone_and_no_state(two, service, store):
    session = answer(service, act("a", "close"))["session"]
    assert (session["id"], session["step"], session["closed"]) == ("a", 3, True)
    [entry] = contents(store).values()
    assert len(entry.value) < 4 * two.signature.state_length + 200
    before = contents(store)
    assert answer(service, act("a", "close"))["session"] == session
    assert contents(store) == before


LAST = state.MAX_POSITION


def test_a_position_at_the_end_of_all_numbers_makes_no_session_unreadable(two, service):
    """Without a key a client can pack any position into a state; a session made of it must stay readable, or never be made."""
    packed = state.to_text(state.State(two.signature.initial_state, LAST, two.signature.digest))
    ask(service, act("b", "import", state=packed))
    ask(service, step("b", None, two.sequence(3)))
    [(status, reply)] = ask(service, act("b", "describe"))
    assert status < 500, reply


def test_a_state_that_we_return_is_a_state_that_we_take_up_to_the_last_position(two, service):
    x = two.sequence(1).tolist()
    held = state.to_text(state.State(two.signature.initial_state, LAST - 2, two.signature.digest))
    for at in (LAST - 1, LAST):
        held = answer(service, {"inputs": x, "state": held, "return": ["state"]})["state"]
        answer(service, act(f"at-{at}", "import", state=held))
        assert position(service, f"at-{at}") == at
    status, code, error = refusal(service, {"inputs": x, "state": held, "return": ["state"]})
    assert (status, code) == (422, "invalid_input")
    assert f"beyond the last position, {LAST}" in error["message"]
