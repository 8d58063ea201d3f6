"""`commit: false` and `horizon`: answers about a session that leave it where it was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.stores.memory import MemoryStore
from tests.conftest import BACKENDS, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.requests import contents, position, step


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_what_if_answers_as_the_step_would_and_changes_nothing(two, backend):
    store = MemoryStore()
    service, x = make_service(two, backend, store), two.sequence(5)
    started = answer(service, step("a", 0, x[:2]))["session"]
    before = contents(store)
    reply = answer(service, step("a", 2, x[2:], commit=False, **{"return": ["prediction", "h_n"]}))
    assert_close(reply["prediction"], eager.run(two.model, x).prediction, "prediction")
    assert_close(reply["h_n"], eager.run(two.model, x).h_n, "h_n")
    assert reply["session"] == started
    assert contents(store) == before
    again = answer(service, step("a", 2, x[2:], **{"return": ["prediction", "h_n"]}))
    assert (again["prediction"], again["session"]["replayed"]) == (reply["prediction"], False), "a what-if is not recorded as the step"


def test_a_what_if_about_a_session_that_is_not_there_makes_none(two):
    store = MemoryStore()
    service = make_service(two, store=store)
    reply = answer(service, step("a", 0, two.sequence(3), commit=False))
    assert (reply["session"]["id"], reply["session"]["step"]) == ("a", 0)
    assert contents(store) == {}
    assert refusal(service, step("a", 3, two.sequence(3), commit=False))[1] == "session_not_found"


def test_a_what_if_is_held_to_the_sessions_position(two):
    service, x = make_service(two), two.sequence(3)
    answer(service, step("a", 0, x[:2]))
    assert refusal(service, step("a", 5, x[2:], commit=False))[:2] == (409, "step_conflict")


def test_what_ifs_beside_a_step_of_the_same_batch_see_what_came_before_them(two):
    service, x = make_service(two), two.sequence(3)
    requests = [step("a", 0, x[:1]), step("a", 1, x[1:2], commit=False), step("a", 1, x[2:3], commit=False), step("a", 1, x[1:2])]
    replies = [reply for _, reply in ask(service, *requests)]
    assert [reply["session"]["step"] for reply in replies] == [1, 1, 1, 2]
    assert replies[1]["prediction"] == replies[3]["prediction"]
    assert position(service, "a") == 2


HORIZONS = pytest.mark.parametrize(("name", "known"), [("two", 2), ("step", 2), ("projected", 2), ("one", 0)])


@HORIZONS
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forecast_is_the_eager_models_rollout(exported, name, known, backend):
    model = exported(name)
    service = make_service(model, backend)

    @settings(max_examples=8)
    @given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 99))
    def any_horizon(steps, horizon, seed):
        x = model.sequence(steps + horizon, seed)
        future = x[steps:, 1:] if known else None
        request = {"inputs": x[:steps].tolist(), "horizon": horizon} | ({"future": future.tolist()} if known else {})
        reply = answer(service, request | {"return": ["prediction"]})
        expected = eager.rollout(model.model, x[:steps], horizon, future)
        assert_close(reply["forecast"], expected, f"forecast of {horizon} after {steps} steps")
        last = reply["prediction"][-1] if name == "step" else reply["prediction"]
        assert reply["forecast"][0] == last, "forecast[0] is the prediction"

    any_horizon()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forecast_starts_where_the_session_is_and_never_moves_it(two, backend):
    service, x = make_service(two, backend), two.sequence(9)
    answer(service, step("a", 0, x[:3]))
    reply = answer(service, step("a", 3, x[3:5], horizon=4, future=x[5:, 1:].tolist(), **{"return": ["h_n"]}))
    assert_close(reply["forecast"], eager.rollout(two.model, x[:5], 4, x[5:, 1:]), "forecast")
    assert_close(reply["h_n"], eager.run(two.model, x[:5]).h_n, "h_n beside a forecast is the inputs' own")
    assert reply["session"]["step"] == position(service, "a") == 5
    assert_close(answer(service, step("a", 5, x[5:]))["prediction"], eager.run(two.model, x).prediction, "the step after a forecast")


def test_forecasts_of_any_horizon_share_a_batch(two):
    x = two.sequence(20)
    plans = [(2, 5), (4, 1), (1, 0), (3, 9), (2, 5)]
    requests = [
        {"inputs": x[:steps].tolist(), "horizon": n} | ({"future": x[steps : steps + n, 1:].tolist()} if n else {}) for steps, n in plans
    ]
    for (steps, n), (_, reply) in zip(plans, ask(make_service(two), *requests), strict=True):
        assert ("forecast" in reply) == bool(n)
        if n:
            assert_close(reply["forecast"], eager.rollout(two.model, x[:steps], n, x[steps : steps + n, 1:]), f"{n} after {steps}")


def test_the_last_row_of_the_future_describes_the_last_forecast_and_is_not_fed(two):
    service, x = make_service(two), two.sequence(2)
    futures = [[[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [-50, 60]]]
    one, other = (answer(service, {"inputs": x.tolist(), "horizon": 3, "future": future})["forecast"] for future in futures)
    assert one == other
