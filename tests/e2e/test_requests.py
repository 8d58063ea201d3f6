"""The request's fields, one promise each: client-held state, horizon, what-if, instances, and the ways a session ends."""

from typing import Any

import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Client, Connect, until
from tests.support.served_models import VERSION, Model, assert_close

pytestmark = pytest.mark.e2e


@pytest.fixture
def two(zoo: dict[str, Model]) -> Model:
    return zoo["two"]


@pytest.fixture
def client(served: TorchServe, connect: Connect) -> Client:
    return connect(served, "two")


# What comes back.


def test_an_answer_holds_what_was_asked_for_and_where_it_came_from(client: Client, two: Model, session: str) -> None:
    answer = client.ask(inputs=two.inputs(2, seed=1), session={"id": session, "step": 0}, **{"return": ["c_n", "output"]})
    assert set(answer) == {"output", "c_n", "model", "session"}
    assert answer["model"] == {"name": "two", "version": VERSION}
    assert (answer["session"]["id"], answer["session"]["step"], answer["session"]["replayed"]) == (session, 2, False)


def test_the_version_may_be_named(client: Client, two: Model) -> None:
    inputs = two.inputs(3, seed=2)
    client.url += f"/{VERSION}"
    assert_close(client.ask(inputs=inputs)["prediction"], two.whole(inputs), "prediction of the named version")


def test_answers_are_json_without_whitespace(client: Client, two: Model) -> None:
    response = client.send(inputs=two.inputs(3, seed=3), **{"return": ["h_n"]})
    assert response.headers["content-type"] == "application/json"
    assert b" " not in response.content
    assert b"\n" not in response.content


def test_a_session_without_an_id_gets_one_that_cannot_be_guessed(client: Client, two: Model) -> None:
    first, second = (client.ask(inputs=two.inputs(1, seed=4), session={})["session"] for _ in range(2))
    assert first["id"] != second["id"]
    assert min(len(first["id"]), len(second["id"])) >= 20
    assert client.position(first["id"]) == 1


# Client-held state.


def test_a_state_given_back_as_arrays_or_as_one_string_carries_on_alike(client: Client, two: Model) -> None:
    inputs = two.inputs(20, seed=5)
    head = client.ask(inputs=inputs[:12], **{"return": ["h_n", "c_n", "state"]})
    eager = two.run(inputs)
    for state in (head["state"], {"h_n": head["h_n"], "c_n": head["c_n"]}):
        tail = client.ask(inputs=inputs[12:], state=state, **{"return": ["prediction", "h_n", "c_n"]})
        assert_close(tail["prediction"], eager.y[-1], "prediction")
        assert_close(tail["h_n"], eager.h_n, "h_n")
        assert_close(tail["c_n"], eager.c_n, "c_n")


def test_a_session_may_begin_from_a_state_that_the_client_holds(client: Client, two: Model, session: str) -> None:
    inputs = two.inputs(9, seed=6)
    state = client.ask(inputs=inputs[:5], **{"return": ["state"]})["state"]
    client.ask(inputs=inputs[5:8], state=state, session={"id": session, "step": 0})
    answer = client.ask(inputs=inputs[8:], session={"id": session, "step": 3})
    assert_close(answer["prediction"], two.whole(inputs), "prediction of the session")
    client.refusal(422, "invalid_input", inputs=inputs[:1], state=state, session={"id": session, "step": 4})


def test_a_state_belongs_to_one_model(served: TorchServe, client: Client, zoo: dict[str, Model], connect: Connect) -> None:
    inputs = zoo["two"].inputs(2, seed=7)
    state = client.ask(inputs=inputs, **{"return": ["state"]})["state"]
    for name in ("one", "projected"):
        connect(served, name).refusal(409, "model_changed", inputs=inputs, state=state)


def test_a_signed_state_is_taken_back_unchanged_only(served: TorchServe, zoo: dict[str, Model], connect: Connect) -> None:
    """`fleeting` has a key; `one` has the same weights and none."""
    signing, plain, inputs = connect(served, "fleeting"), connect(served, "one"), zoo["one"].inputs(6, seed=8)
    signed, unsigned = (client.ask(inputs=inputs[:4], **{"return": ["state"]})["state"] for client in (signing, plain))
    answer = signing.ask(inputs=inputs[4:], state=signed)
    assert_close(answer["prediction"], zoo["one"].whole(inputs), "prediction from the signed state")
    for forged in (unsigned, signed[:100] + ("A" if signed[100] != "A" else "B") + signed[101:]):
        signing.refusal(422, "invalid_input", inputs=inputs[4:], state=forged)


# Horizon.


@pytest.mark.parametrize("horizon", [1, 2, 24])
def test_a_forecast_equals_the_eager_rollout_and_leaves_the_session_where_it_was(
    either: TorchServe, two: Model, connect: Connect, session: str, horizon: int
) -> None:
    client, inputs = connect(either, "two"), two.inputs(15, seed=9)
    future = [row[1:] for row in two.inputs(horizon, seed=10)]
    client.ask(inputs=inputs[:10], session={"id": session, "step": 0})
    answer = client.ask(inputs=inputs[10:12], session={"id": session, "step": 10}, horizon=horizon, future=future)
    assert_close(answer["forecast"], two.rollout(inputs[:12], future), "forecast")
    assert answer["forecast"][0] == answer["prediction"]
    assert answer["session"]["step"] == 12
    after = client.ask(inputs=inputs[12:], session={"id": session, "step": 12}, **{"return": ["prediction", "h_n"]})
    assert_close(after["h_n"], two.run(inputs).h_n, "h_n after a forecast and more steps")


def test_forecasts_of_unequal_length_share_a_body(client: Client, two: Model) -> None:
    rows, expected = [], []
    for i, horizon in enumerate((5, 1, 17, 0, 9)):
        inputs, future = two.inputs(3 + i, seed=110 + i), [row[1:] for row in two.inputs(horizon, seed=120 + i)]
        rows.append({"inputs": inputs} | ({"horizon": horizon, "future": future} if horizon else {}))
        expected.append(two.rollout(inputs, future) if horizon else None)
    answers = client.ask(instances=rows)["predictions"]
    assert ["forecast" in answer for answer in answers] == [True, True, True, False, True]
    for i, forecast in enumerate(expected):
        if forecast is not None:
            assert_close(answers[i]["forecast"], forecast, f"forecast of row {i}")


def test_a_horizon_needs_a_model_that_feeds_back_and_the_inputs_known_in_advance(
    served: TorchServe, client: Client, zoo: dict[str, Model], connect: Connect
) -> None:
    inputs = zoo["two"].inputs(2, seed=11)
    connect(served, "both-ways").refusal(422, "invalid_input", inputs=inputs, horizon=2)
    connect(served, "words").refusal(422, "invalid_input", inputs=[1, 2], horizon=2)
    client.refusal(422, "invalid_input", inputs=inputs, horizon=2)
    client.refusal(422, "invalid_input", inputs=inputs, horizon=2, future=[[1, 2]])
    client.refusal(422, "invalid_input", inputs=inputs, future=[[1, 2]])
    client.refusal(413, "too_large", inputs=inputs, horizon=1001, future=[[1, 2]] * 1001)


# What-if.


def test_commit_false_answers_and_leaves_the_session_where_it_was(client: Client, two: Model, session: str) -> None:
    inputs = two.inputs(12, seed=12)
    client.ask(inputs=inputs[:10], session={"id": session, "step": 0})
    for other in (inputs[10:], two.inputs(4, seed=13)):
        answer = client.ask(inputs=other, session={"id": session, "step": 10}, commit=False)
        assert_close(answer["prediction"], two.whole(inputs[:10] + other), "what if")
        assert answer["session"]["step"] == 10
    answer = client.ask(inputs=inputs[10:], session={"id": session, "step": 10})
    assert answer["session"]["step"] == 12
    assert_close(answer["prediction"], two.whole(inputs), "what was then committed")


def test_commit_false_creates_no_session(client: Client, two: Model, session: str) -> None:
    inputs = two.inputs(3, seed=14)
    answer = client.ask(inputs=inputs, session={"id": session, "step": 0}, commit=False)
    assert_close(answer["prediction"], two.whole(inputs), "what if there were a session")
    assert answer["session"]["step"] == 0
    client.refusal(404, "session_not_found", session={"id": session, "action": "describe"})


# Where a session is, and how it ends.


def test_a_session_tells_where_it_is(client: Client, two: Model, session: str) -> None:
    client.ask(inputs=two.inputs(3, seed=15), session={"id": session, "step": 0})
    client.ask(inputs=two.inputs(2, seed=16), session={"id": session})
    found = client.ask(session={"id": session, "action": "describe"})["session"]
    assert (found["id"], found["step"], found["last_step"]) == (session, 5, 3)
    assert found["created_at"] <= found["expires_at"]


@pytest.mark.parametrize("step", [1, 5, None])
def test_a_step_of_a_session_that_is_not_there_is_never_served_from_zero(
    client: Client, two: Model, session: str, step: int | None
) -> None:
    ref: dict[str, Any] = {"id": session} if step is None else {"id": session, "step": step}
    error = client.refusal(404, "session_not_found", inputs=two.inputs(1, seed=17), session=ref)
    assert session in error["message"]
    assert '"step": 0' in error["message"]


def test_a_step_elsewhere_is_a_conflict_that_names_the_expected_step(client: Client, two: Model, session: str) -> None:
    inputs = two.inputs(8, seed=18)
    client.ask(inputs=inputs[:3], session={"id": session, "step": 0})
    client.ask(inputs=inputs[3:5], session={"id": session, "step": 3})
    for step, sent in ((1, inputs[:3]), (3, inputs[:2]), (3, inputs[3:6]), (4, inputs[:1]), (6, inputs[:1]), (2**53, inputs[:1])):
        error = client.refusal(409, "step_conflict", inputs=sent, session={"id": session, "step": step})
        assert error["details"]["expected"] == 5
    error = client.refusal(409, "session_exists", inputs=inputs[:3], session={"id": session, "step": 0})
    assert error["details"]["expected"] == 5
    answer = client.ask(inputs=inputs[5:], session={"id": session, "step": 5}, **{"return": ["h_n"]})
    assert_close(answer["h_n"], two.run(inputs).h_n, "h_n after every conflict")


def test_a_closed_session_is_gone_and_says_so(client: Client, two: Model, session: str) -> None:
    inputs = two.inputs(3, seed=19)
    client.ask(inputs=inputs, session={"id": session, "step": 0})
    assert client.ask(session={"id": session, "action": "close"})["session"]["closed"] is True
    assert client.ask(session={"id": session, "action": "close"})["session"]["closed"] is True
    for ref in ({"id": session, "step": 3}, {"id": session}, {"id": session, "step": 1}):
        client.refusal(410, "session_closed", inputs=inputs[:1], session=ref)
    client.refusal(410, "session_closed", inputs=inputs[1:], session={"id": session, "step": 0})
    client.refusal(410, "session_closed", session={"id": session, "action": "describe"})


def test_the_last_answer_before_a_close_can_still_be_had(client: Client, two: Model, session: str) -> None:
    request = {"inputs": two.inputs(3, seed=20), "session": {"id": session, "step": 0}}
    before = client.ask(**request)
    client.ask(session={"id": session, "action": "close"})
    after = client.ask(**request)
    assert after["session"]["replayed"] is True
    assert after["prediction"] == before["prediction"]


def test_an_idle_session_expires_and_may_start_anew(served: TorchServe, zoo: dict[str, Model], connect: Connect, session: str) -> None:
    client, inputs = connect(served, "fleeting"), zoo["fleeting"].inputs(2, seed=21)
    client.ask(inputs=inputs, session={"id": session, "step": 0})
    until(lambda: client.send(session={"id": session, "action": "describe"}).status_code == 410, "the session to expire", deadline=30)
    for ref in ({"id": session, "step": 2}, {"id": session}, {"id": session, "step": 9}):
        client.refusal(410, "session_expired", inputs=inputs[:1], session=ref)
    answer = client.ask(inputs=inputs[1:], session={"id": session, "step": 0})
    assert answer["session"]["step"] == 1
    assert_close(answer["prediction"], zoo["fleeting"].whole(inputs[1:]), "the first prediction of the new session")


def test_a_fork_goes_its_own_way(client: Client, two: Model, session: str) -> None:
    inputs, other = two.inputs(8, seed=22), two.inputs(4, seed=23)
    client.ask(inputs=inputs[:5], session={"id": session, "step": 0})
    for _ in range(2):  # sent again, it is answered again
        assert client.ask(session={"id": session, "action": "fork", "to": f"{session}-2"})["session"]["step"] == 5
    forked = client.ask(inputs=other, session={"id": f"{session}-2", "step": 5})
    source = client.ask(inputs=inputs[5:], session={"id": session, "step": 5})
    assert_close(forked["prediction"], two.whole(inputs[:5] + other), "the fork")
    assert_close(source["prediction"], two.whole(inputs), "the source")
    client.refusal(409, "session_exists", session={"id": session, "action": "fork", "to": f"{session}-2"})


def test_a_session_moves_to_another_server(served: TorchServe, scripted: TorchServe, two: Model, connect: Connect, session: str) -> None:
    """Exported here, imported there, with its position; the two run different backends."""
    here, there, inputs = connect(served, "two"), connect(scripted, "two"), two.inputs(9, seed=24)
    here.ask(inputs=inputs[:6], session={"id": session, "step": 0})
    state = here.ask(session={"id": session, "action": "export"})["state"]
    assert there.ask(session={"id": session, "action": "import"}, state=state)["session"]["step"] == 6
    answer = there.ask(inputs=inputs[6:], session={"id": session, "step": 6})
    assert_close(answer["prediction"], two.whole(inputs), "prediction on the other server")


def test_model_that_is_not_served_is_not_found(served: TorchServe, connect: Connect) -> None:
    assert connect(served, "nobody").send(inputs=[[1, 2, 3]]).status_code == 404
