"""Predictions, streams and their actions: each method of both clients, and each way to lose an answer."""

import httpx
import numpy as np
import orjson
import pytest

import cellstate
from cellstate import Client
from tests.conftest import Clock, assert_close, make_service
from tests.support import eager
from tests.support.clients import POLICY
from tests.support.host_in_memory import HostInMemory, host_error

EVERYTHING = ["prediction", "output", "h_n", "c_n", "state"]


# Predictions.


def test_a_window_is_predicted(client, two):
    x = two.sequence(6)
    result = client.predict("two", x, returns=EVERYTHING)
    expected = eager.run(two.model, x)
    for name in ("prediction", "output", "h_n", "c_n"):
        assert result[name].dtype == np.float32
        assert_close(getattr(result, name), getattr(expected, name), name)
    assert (result.model.name, result.model.version) == ("two", "1.0")
    with pytest.raises(cellstate.NotReturned, match="forecast: not in the answer, which has prediction, output"):
        result.forecast  # noqa: B018


@pytest.mark.parametrize("held", ["state", "arrays"])
def test_the_caller_may_hold_the_state(client, two, held):
    x, state = two.sequence(6), None
    for start in range(0, 6, 2):
        result = client.predict("two", x[start : start + 2], state=state, returns=EVERYTHING)
        state = result.state if held == "state" else {"h_n": result.h_n, "c_n": result.c_n}
    assert_close(result.prediction, eager.run(two.model, x).prediction, "prediction after three requests")


def test_a_version_is_part_of_the_path(client, two):
    assert client.predict("two/1.0", two.sequence(2)).model.version == "1.0"


@pytest.mark.parametrize("kind", ["array", "lists", "rows", "float64"])
def test_inputs_are_arrays_or_lists(client, two, kind):
    x = two.sequence(3)
    given = {"array": x, "lists": x.tolist(), "rows": list(x), "float64": x.astype(np.float64)}[kind]
    assert_close(client.predict("two", given).prediction, eager.run(two.model, x).prediction, kind)


def test_an_error_of_the_api_is_an_exception(client, two):
    with pytest.raises(cellstate.InvalidInput, match="expected 3 features, got 2") as raised:
        client.predict("two", [[1, 2]])
    assert (raised.value.status, raised.value.code) == (422, "invalid_input")
    with pytest.raises(cellstate.ModelNotFound):
        client.predict("three", two.sequence(1))
    with pytest.raises(TypeError, match="expected numbers, got str"):
        client.predict("two", "12")


# Streams.


def test_a_stream_names_each_step(client, host, two):
    x = two.sequence(7)
    with client.stream("two", "a") as stream:
        assert stream.position == 0
        for start, stop in ((0, 1), (1, 2), (2, 7)):
            result = stream.step(x[start:stop])
            assert result.session.step == stream.position == stop
    assert_close(result.prediction, eager.run(two.model, x).prediction, "prediction after 7 steps")
    assert [session.get("step", session.get("action")) for session in host.sessions] == ["describe", 0, 1, 2]


def test_a_stream_without_an_id_makes_one_and_asks_nothing(client, host, two):
    with client.stream("two") as stream:
        stream.step(two.sequence(1))
    assert len(stream.id) >= 22
    assert host.sessions == [{"id": stream.id, "step": 0}]


def test_an_empty_id_is_refused_and_not_replaced(client, two):
    with pytest.raises(cellstate.InvalidInput, match=r"session\.id: expected 1 to 128 of the characters"):
        client.stream("two", "").step(two.sequence(1))
    stream = client.stream("two", "a")
    stream.step(two.sequence(1))
    with pytest.raises(cellstate.InvalidInput, match=r"session\.to: expected 1 to 128 of the characters"):
        stream.fork("")


def test_leaving_the_block_leaves_the_session(client, two):
    x = two.sequence(5)
    with client.stream("two", "a") as stream:
        stream.step(x[:3])
    with client.stream("two", "a") as stream:
        assert stream.position == 3
        result = stream.step(x[3:])
    assert_close(result.prediction, eager.run(two.model, x).prediction, "prediction after a restart")


def test_a_stream_that_was_not_entered_asks_before_its_first_step(client, two):
    client.stream("two", "a").step(two.sequence(3))
    stream = client.stream("two", "a")
    with pytest.raises(RuntimeError, match="position of session a is not known yet"):
        stream.position  # noqa: B018
    assert stream.step(two.sequence(1)).session.step == 4


def test_a_session_that_must_be_there_is_not_created(client, two):
    with pytest.raises(cellstate.SessionNotFound), client.stream("two", "a", create=False):
        pass
    with pytest.raises(cellstate.SessionNotFound):
        client.stream("two", "a", position=4).step(two.sequence(1))


@pytest.mark.parametrize(
    "fault", ["unsent", "unanswered", host_error(500, "InternalServerException", "Worker died."), host_error(507, "", "")]
)
def test_a_lost_answer_is_asked_for_again_and_the_step_is_applied_once(client, host, two, fault):
    x = two.sequence(8)
    with client.stream("two", "a") as stream:
        for i in range(8):
            host.faults.extend([fault] * (i % 3))
            result = stream.step(x[i : i + 1])
            assert result.session.replayed is (fault == "unanswered" and i % 3 > 0)
    assert stream.describe().step == 8
    assert_close(result.prediction, eager.run(two.model, x).prediction, "prediction after 8 steps")


def test_a_step_that_ran_out_of_time_can_be_made_again(client, host, two):
    x = two.sequence(3)
    with client.stream("two", "a") as stream:
        stream.step(x[:1])
        host.faults.append(httpx.Response(503, headers={"retry-after": "3600"}))
        host.service.handle_batch([orjson.dumps({"inputs": x[1:2].tolist(), "session": {"id": "a", "step": 1}})])  # it was applied
        with pytest.raises(cellstate.DeadlineExceeded) as raised:
            stream.step(x[1:2])
        assert "applied once" in raised.value.remedy
        assert stream.position == 1
        assert stream.step(x[1:2]).session.replayed
        result = stream.step(x[2:])
    assert_close(result.prediction, eager.run(two.model, x).prediction, "prediction after 3 steps")


def test_a_session_that_somebody_else_moved_is_a_conflict_until_resumed(client, two):
    x = two.sequence(4)
    with client.stream("two", "a") as mine, client.stream("two", "a") as other:
        mine.step(x[:1])
        with pytest.raises(cellstate.SessionExists) as exists:
            other.step(x[1:3])
        assert exists.value.expected == 1
        other.resume()
        other.step(x[1:3])
        with pytest.raises(cellstate.StepConflict) as conflict:
            mine.step(x[3:])
        assert (conflict.value.expected, mine.position) == (3, 1)
        assert mine.resume().step == mine.position == 3
        mine.step(x[3:])


def test_a_kept_position_repeats_the_unanswered_step_of_a_client_that_died(client, host, two):
    x = two.sequence(2)
    client.stream("two", "a").step(x[:1])
    host.service.handle_batch([orjson.dumps({"inputs": x[1:].tolist(), "session": {"id": "a", "step": 1}})])  # and the client dies
    result = client.stream("two", "a", position=1).step(x[1:])
    assert result.session.replayed
    assert_close(result.prediction, eager.run(two.model, x).prediction, "the answer that was lost")


def test_a_forecast_rolls_on_from_the_new_observation(client, two):
    x, future = two.sequence(3), np.zeros((4, 2), np.float32)
    with client.stream("two", "a") as stream:
        stream.step(x[:2])
        result = stream.forecast(4, x[2:], future=future)
        assert stream.position == 3
    assert_close(result.forecast, eager.rollout(two.model, x, 4, future), "forecast")
    assert_close(result.forecast[0], result.prediction, "the first of the forecast")


def test_a_missing_measurement_is_nan(client, two):
    x = two.sequence(4).copy()
    x[2, 0] = np.nan
    with client.stream("two", "a") as stream:
        predicted = stream.step(x[:2]).prediction
        assert stream.step(x[2:3]).imputed == 1
        assert stream.step(x[3:]).imputed == 0
        after = stream.what_if(x[:1]).prediction
    x[2, 0] = predicted[0]
    assert_close(after, eager.run(two.model, np.vstack([x, x[:1]])).prediction, "with the prediction in the place of the measurement")


def test_what_if_leaves_the_session(client, two):
    x = two.sequence(3)
    with client.stream("two", "a") as stream:
        stream.step(x[:2])
        result = stream.what_if(x[2:])
        assert (stream.position, stream.describe().step) == (2, 2)
    assert_close(result.prediction, eager.run(two.model, x).prediction, "what if")


@pytest.mark.parametrize("fault", [None, "unanswered"])
def test_fork_rewind_export_import_and_close_are_done_once(client, host, two, fault):
    x = two.sequence(5)

    def again():
        host.faults.append(fault)

    with client.stream("two", "a") as stream:
        stream.step(x[:2])
        stream.step(x[2:4])
        again()
        forked = stream.fork("b")
        again()
        assert stream.rewind(2).step == stream.position == 2
        again()
        moved = client.import_session("two", forked.export(), "c")
        assert (forked.position, moved.position) == (4, 4)
        for each in (forked, moved):
            assert_close(each.step(x[4:]).prediction, eager.run(two.model, x).prediction, each.id)
        assert_close(stream.step(x[4:]).prediction, eager.run(two.model, x[[0, 1, 4]]).prediction, "after the rewind")
        again()
        assert stream.close().closed
        with pytest.raises(cellstate.SessionClosed):
            stream.step(x[:1])


def test_describe_tells_where_the_service_has_the_session(client, two):
    with client.stream("two", "a") as stream:
        stream.step(two.sequence(2))
        stream.step(two.sequence(3))
        info = stream.describe()
    assert (info.id, info.step, info.last_step, info.replayed, info.closed) == ("a", 5, 2, False, False)
    assert info.created_at == info.created_at.astimezone()
    assert info.created_at.timestamp() == Clock().now
    assert info.expires_at > info.created_at
    assert len(info.model_digest) == 32


def test_an_expired_session_is_started_anew_only_when_asked_to(two):
    clock = Clock()
    host = HostInMemory("two", make_service(two, clock=clock, session_ttl=10.0))
    with httpx.Client(transport=host.transport) as http:
        client = Client("http://cellstate.test", policy=POLICY, http=http)
        client.stream("two", "a").step(two.sequence(2))
        clock.now += 11.0
        with pytest.raises(cellstate.SessionExpired), client.stream("two", "a"):
            pass
        assert client.stream("two", "a", position=0).step(two.sequence(1)).session.step == 1


# Generations.


def test_a_generation_is_sent_once_the_service_has_told_it(client, host, two):
    stream = client.stream("two", "a", position=0)
    stream.step(two.sequence(1))
    stream.step(two.sequence(2))
    assert stream.rewind(1).generation == 1
    stream.step(two.sequence(1))
    assert stream.describe().generation == 1
    assert [session.get("generation") for session in host.sessions] == [None, 0, 0, 1, None]


def test_a_step_of_another_generation_is_a_conflict_until_resumed(client, two):
    with client.stream("two", "a") as mine:
        mine.step(two.sequence(1))
        with client.stream("two", "a") as other:
            mine.step(two.sequence(1))
            mine.rewind(1)
            with pytest.raises(cellstate.StepConflict) as conflict:
                other.step(two.sequence(1))
            assert (conflict.value.expected, conflict.value.generation) == (1, 1)
            other.resume()
            assert other.step(two.sequence(1)).session.generation == 1


class WithoutGenerations(HostInMemory):
    """A service of before generations: it tells none, and refuses the field."""

    def _serve(self, request):
        assert "generation" not in orjson.loads(request.content)["session"]
        answer = super()._serve(request)
        document = orjson.loads(answer.content)
        document["session"].pop("generation")
        return httpx.Response(answer.status_code, json=document)


def test_a_service_without_generations_is_sent_none(two):
    host = WithoutGenerations("two", make_service(two, keep_versions=3))
    with httpx.Client(transport=host.transport) as http:
        stream = Client("http://cellstate.test", policy=POLICY, http=http).stream("two", "a", position=0)
        stream.step(two.sequence(1))
        stream.step(two.sequence(1))
        assert stream.rewind(1).generation is None
        assert stream.step(two.sequence(2)).session.step == 3
