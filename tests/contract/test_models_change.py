"""A state belongs to one model digest: after a new version is deployed, nothing of the old one is run by it unnoticed."""

import pytest

from export.report import TOLERANCE
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, assert_close, difference, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, fields, position, raw, step


@pytest.fixture
def deployed(exported, two):
    """(old service, new service, store): version 1.0 and the retrained 2.0 of one model over one store; session "a" of 1.0 at step 2."""
    store = MemoryStore()
    old, new = make_service(two, store=store), make_service(exported("retrained"), store=store)
    assert two.signature.name == exported("retrained").signature.name
    assert two.signature.digest != exported("retrained").signature.digest
    answer(old, step("a", 0, two.sequence(2)))
    return old, new, store


@pytest.mark.parametrize("at", [2, None], ids=["named", "without a step"])
def test_a_step_on_a_state_of_another_model_is_model_changed_and_changes_nothing(two, deployed, at):
    old, new, store = deployed
    before = contents(store)
    status, code, error = refusal(new, step("a", at, two.sequence(1)))
    assert (status, code, error["details"]) == (409, "model_changed", {"session": "a", "expected": 2, "generation": 0, "version": "1.0"})
    assert contents(store) == before
    assert answer(old, step("a", at, two.sequence(1)))["session"]["step"] == 3, "the version that made it still serves it"


def test_an_answer_that_was_lost_during_the_change_is_still_had(two, deployed):
    old, new, _ = deployed
    request = step("a", 0, two.sequence(2))
    assert fields(raw(new, request)) == fields(raw(old, request))


def test_such_a_session_can_be_described_and_closed_and_its_state_goes_nowhere_else(two, deployed):
    old, new, _ = deployed
    assert answer(new, act("a", "describe"))["session"]["model_digest"] == two.signature.digest.hex()
    state = answer(new, act("a", "export"))["state"]
    assert refusal(new, {"inputs": two.sequence(1).tolist(), "state": state})[:2] == (409, "model_changed")
    assert refusal(new, act("b", "import", state=state))[:2] == (409, "model_changed")
    assert answer(old, act("b", "import", state=state))["session"]["step"] == 2
    answer(new, act("a", "close"))
    assert position(old, "a") == "session_closed"


def test_a_new_session_beside_it_is_the_new_models(exported, two, deployed):
    _, new, _ = deployed
    x = two.sequence(3)
    reply = answer(new, step("b", 0, x))
    assert reply["model"] == {"name": "two", "version": "2.0"}
    assert_close(reply["prediction"], eager.run(exported("retrained").model, x).prediction, "prediction of the new version")


def test_models_of_different_names_never_meet_in_one_store(exported, two):
    store = MemoryStore()
    one, other = make_service(two, store=store), make_service(exported("step"), store=store)
    answer(one, step("a", 0, two.sequence(2)))
    assert position(other, "a") == "session_not_found"
    answer(other, step("a", 0, two.sequence(5)))
    assert (position(one, "a"), position(other, "a")) == (2, 5)


KEPT = {"rewarm_steps": 4}


def deploy(model, store):
    return make_service(model, store=store, **KEPT)


@pytest.mark.parametrize("steps", [2, 4, 9], ids=["all that there was", "as many as are kept", "more than are kept"])
@pytest.mark.parametrize("known", ["prediction", "h_n", "output"])
def test_with_recorded_inputs_the_state_is_rebuilt_by_the_new_model(exported, two, steps, known):
    store, new = MemoryStore(), exported("retrained")
    x = two.sequence(steps + 2)
    for n in range(steps):
        answer(deploy(two, store), step("a", n, x[n : n + 1]))
    reply = answer(deploy(new, store), step("a", steps, x[steps:], **{"return": [known]}))
    seen = eager.run(new.model, x[max(0, steps - 4) :])
    expected = getattr(seen, known)[-2:] if known == "output" else getattr(seen, known)
    assert_close(reply[known], expected, f"{known} of the rebuilt stream")
    assert (reply["session"]["step"], reply["session"]["rewarmed"]) == (steps + 2, True)
    assert "rewarmed" not in answer(deploy(new, store), step("a", steps + 2, x[:1]))["session"]


def test_a_forecast_from_a_rebuilt_state_is_the_new_models(exported, two):
    store, new, x = MemoryStore(), exported("retrained"), two.sequence(7)
    answer(deploy(two, store), step("a", 0, x[:3]))
    reply = answer(deploy(new, store), step("a", 3, x[3:4], horizon=3, future=x[4:, 1:].tolist()))
    assert_close(reply["forecast"], eager.rollout(new.model, x[:4], 3, x[4:, 1:]), "forecast")


def test_a_session_whose_past_was_not_recorded_is_not_rebuilt_from_a_part_of_it(exported, two):
    """Imported at 9, one step since: that one input is not what the state was made of."""
    store, old = MemoryStore(), deploy(two, MemoryStore())
    answer(old, step("a", 0, two.sequence(9)))
    state = answer(old, act("a", "export"))["state"]
    answer(deploy(two, store), act("b", "import", state=state))
    answer(deploy(two, store), step("b", 9, two.sequence(1)))
    assert refusal(deploy(exported("retrained"), store), step("b", 10, two.sequence(1)))[:2] == (409, "model_changed")


def rewind(to):
    return {"session": {"id": "a", "action": "rewind", "step": to}}


def test_a_fork_keeps_what_its_state_can_be_rebuilt_from(exported, two):
    store, new, x = MemoryStore(), exported("retrained"), two.sequence(8)
    answer(deploy(two, store), step("a", 0, x[:6]))
    answer(deploy(two, store), act("a", "fork", to="b"))
    reply = answer(deploy(new, store), step("b", 6, x[6:], **{"return": ["h_n"]}))
    assert reply["session"]["rewarmed"] is True
    assert_close(reply["h_n"], eager.run(new.model, x[2:]).h_n, "h_n of the rebuilt fork")


@pytest.mark.parametrize("to", [6, 5, 3])
def test_a_rewind_to_any_kept_position_keeps_what_the_state_there_can_be_rebuilt_from(exported, two, to):
    store, new, x = MemoryStore(), exported("retrained"), two.sequence(10)
    old = make_service(two, store=store, keep_versions=3, **KEPT)
    for start, stop in ((0, 3), (3, 5), (5, 6), (6, 8)):
        answer(old, step("a", start, x[start:stop]))
    answer(old, rewind(to))
    reply = answer(deploy(new, store), step("a", to, x[8:], **{"return": ["h_n"]}))
    assert reply["session"]["rewarmed"] is True
    known = [eager.run(new.model, [*x[start:to], *x[8:]]).h_n for start in range(max(0, to - 4) + 1)]
    assert min(difference(reply["h_n"], h_n) for h_n in known) < TOLERANCE, "from as many inputs as are kept, or more"


def test_two_versions_over_one_store_do_not_take_turns(exported, two):
    """A session moves to a higher version and stays there."""
    store, new, x = MemoryStore(), exported("retrained"), two.sequence(4)
    answer(deploy(two, store), step("a", 0, x[:1]))
    assert answer(deploy(new, store), step("a", 1, x[1:2]))["session"]["rewarmed"] is True
    status, code, error = refusal(deploy(two, store), step("a", 2, x[2:3]))
    assert (status, code, error["details"]["version"]) == (409, "model_changed", "2.0")
    assert answer(deploy(new, store), step("a", 2, x[2:3]))["session"]["step"] == 3


def test_what_another_version_answered_or_made_names_that_version(two, deployed):
    _, new, _ = deployed
    assert answer(new, step("a", 0, two.sequence(2)))["model"] == {"name": "two", "version": "1.0"}
    assert answer(new, act("a", "export"))["model"] == {"name": "two", "version": "1.0"}
    assert answer(new, act("a", "describe"))["model"] == {"name": "two", "version": "2.0"}
