"""Many sessions in one request."""

import pytest

import cellstate
from cellstate import Client
from tests.conftest import assert_close
from tests.support import eager


def test_many_sessions_step_in_one_request(client, host, two):
    x = [two.sequence(4, seed=i) for i in range(3)]
    streams = [client.stream("two", f"s{i}") for i in range(3)]
    client.batch([(stream, x[i][:3]) for i, stream in enumerate(streams)])
    results = client.batch([(stream, x[i][3:]) for i, stream in enumerate(streams)])
    for i, result in enumerate(results):
        assert_close(result.prediction, eager.run(two.model, x[i]).prediction, f"row {i}")
    assert [stream.position for stream in streams] == [4, 4, 4]
    assert [len(body["instances"]) for body in host.documents] == [3, 3, 3], "one to ask where they are, two of steps"


def test_a_row_of_a_batch_fails_alone(client, two):
    good, bad, closed = (client.stream("two", name) for name in ("good", "bad", "closed"))
    closed.step(two.sequence(1))
    closed.close()
    closed = client.stream("two", "closed")
    results = client.batch([(closed, two.sequence(1)), (good, two.sequence(2)), (bad, [[1, 2]])])
    assert [type(result).__name__ for result in results] == ["SessionClosed", "Result", "InvalidInput"]
    assert [result.status for result in results if isinstance(result, cellstate.ApiError)] == [410, 422]
    assert (good.position, bad.position) == (2, 0)


def test_a_batch_whose_answer_was_lost_is_applied_once(client, host, two):
    streams = [client.stream("two", f"s{i}", position=0) for i in range(3)]
    host.faults.append("unanswered")
    results = client.batch([(stream, two.sequence(2)) for stream in streams])
    assert [result.session.replayed for result in results] == [True] * 3
    assert [stream.describe().step for stream in streams] == [2, 2, 2]


def test_a_batch_that_makes_no_sense_is_refused(client, host, two):
    a, x = client.stream("two", "a"), two.sequence(1)
    assert client.batch([]) == []
    with pytest.raises(ValueError, match="in the batch twice"):
        client.batch([(a, x), (client.stream("two", "a"), x)])
    with pytest.raises(ValueError, match="one model"):
        client.batch([(a, x), (client.stream("three", "b"), x)])
    assert not host.bodies


def test_a_stream_of_another_client_is_refused(two):
    with Client("http://one.test") as one, Client("http://two.test") as other, pytest.raises(ValueError, match="another client"):
        one.batch([(other.stream("two", "a"), two.sequence(1))])
