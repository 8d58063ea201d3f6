"""A state that a client holds: signed when a key is configured, and never taken for what it is not."""

import pytest

from handlers.sessions import state
from tests.conftest import answer, ask, make_service, refusal
from tests.support.requests import act, step

KEY = "the operator's key"


def hold(service, model):
    return answer(service, {"inputs": model.sequence(2).tolist(), "return": ["state", "h_n", "c_n"]})


def go_on(model, held):
    return {"inputs": model.sequence(1).tolist(), "state": held}


def test_a_signed_state_is_taken_by_every_worker_with_the_key(two):
    held = hold(make_service(two, state_key=KEY), two)["state"]
    answer(make_service(two, "torchscript", state_key=KEY), go_on(two, held))


@pytest.mark.parametrize(("writer", "reader"), [(KEY, "another"), (KEY, ""), ("", KEY)], ids=["another key", "no key", "unsigned"])
@pytest.mark.parametrize("form", ["a row", "an import", "a first step"])
def test_a_state_that_is_not_signed_with_the_key_is_refused_wherever_it_is_sent(two, writer, reader, form):
    held = hold(make_service(two, state_key=writer), two)["state"]
    requests = {
        "a row": go_on(two, held),
        "an import": act("a", "import", state=held),
        "a first step": step("a", 0, two.sequence(1), state=held),
    }
    status, code, error = refusal(make_service(two, state_key=reader), requests[form])
    assert (status, code) == (422, "invalid_input")
    assert "does not match" in error["message"]


def test_an_exported_state_is_signed_too(two):
    service = make_service(two, state_key=KEY)
    answer(service, step("a", 0, two.sequence(2)))
    exported = answer(service, act("a", "export"))["state"]
    assert state.from_text(exported, two.signature, KEY.encode()).position == 2
    assert refusal(make_service(two), go_on(two, exported))[0] == 422


def test_a_state_counts_the_steps_it_has_consumed(two):
    service, positions, extra = make_service(two), [], {}
    for steps in (3, 1, 5):
        held = answer(service, {"inputs": two.sequence(steps).tolist(), "return": ["state"]} | extra)["state"]
        positions.append(state.from_text(held, two.signature).position)
        extra = {"state": held}
    assert positions == [3, 4, 9]


def test_a_state_is_exact_in_both_forms(two):
    """JSON carries every float32 exactly: arrays and string continue bit for bit alike."""
    service = make_service(two)
    held = hold(service, two)
    replies = [answer(service, go_on(two, form)) for form in (held["state"], {"h_n": held["h_n"], "c_n": held["c_n"]})]
    assert replies[0] == replies[1]


def test_a_state_is_said_only_when_it_is_asked_for(two):
    [(_, reply)] = ask(make_service(two), {"inputs": two.sequence(2).tolist()})
    assert set(reply) == {"prediction", "model"}
