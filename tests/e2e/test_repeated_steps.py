"""A step that arrives more than once is applied once, and every sender gets the same answer."""

import json
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Client, Connect, error_code, until
from tests.support.served_models import Json, Model, assert_close
from tests.support.streams import Stream

pytestmark = pytest.mark.e2e
EVERYTHING = ["prediction", "output", "h_n", "c_n", "state"]


def without_mark(answer: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The answer without its `replayed` flag, and the flag."""
    session = dict(answer["session"])
    replayed = session.pop("replayed")
    return answer | {"session": session}, replayed


def at_once(server: TorchServe, requests: Sequence[dict[str, Json]]) -> list[httpx.Response]:
    """Send every request from a connection of its own, all at the same moment."""
    barrier = threading.Barrier(len(requests))

    def send(request: dict[str, Json]) -> httpx.Response:
        with Client(server, "two") as client:
            client.ask(inputs=[[50, 0, 1]])  # the connection is open before the race begins
            barrier.wait(60)
            return client.send(**request)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


@pytest.mark.parametrize("times", [2, 5])
def test_a_step_sent_again_is_answered_from_the_record(
    pair: TorchServe, zoo: dict[str, Model], connect: Connect, session: str, times: int
) -> None:
    client, inputs = connect(pair, "two"), zoo["two"].inputs(12, seed=times)
    for position in range(0, 12, 3):
        request = {"inputs": inputs[position : position + 3], "session": {"id": session, "step": position}, "return": EVERYTHING}
        answers, marks = zip(*(without_mark(client.ask(**request)) for _ in range(times)), strict=True)
        assert all(answer == answers[0] for answer in answers)
        assert marks == (False,) + (True,) * (times - 1)
    assert client.position(session) == 12
    assert_close(answers[0]["h_n"], zoo["two"].run(inputs).h_n, "h_n after every step was sent again")


@pytest.mark.parametrize("callers", [2, 5])
def test_a_step_sent_from_several_connections_at_once_is_applied_once(
    pair: TorchServe, zoo: dict[str, Model], connect: Connect, session: str, callers: int
) -> None:
    inputs = zoo["two"].inputs(20, seed=callers)
    predictions = []
    for position in range(20):
        request = {"inputs": [inputs[position]], "session": {"id": session, "step": position}}
        responses = at_once(pair, [request] * callers)
        assert [response.status_code for response in responses] == [200] * callers, [response.text for response in responses]
        answers, marks = zip(*(without_mark(response.json()) for response in responses), strict=True)
        assert all(answer == answers[0] for answer in answers)
        assert sorted(marks) == [False] + [True] * (callers - 1)
        predictions.append(answers[0]["prediction"])
    assert connect(pair, "two").position(session) == 20
    assert_close(predictions, zoo["two"].run(inputs).y, "the stream")


def test_of_two_different_steps_at_one_position_one_wins_and_the_other_learns_where_the_session_is(
    pair: TorchServe, zoo: dict[str, Model], connect: Connect, session: str
) -> None:
    rivals = [zoo["two"].inputs(15, seed=31), zoo["two"].inputs(15, seed=32)]
    applied = []
    for position in range(15):
        responses = at_once(pair, [{"inputs": [inputs[position]], "session": {"id": session, "step": position}} for inputs in rivals])
        won, lost = sorted(responses, key=lambda response: response.status_code)
        expected = (409, "session_exists") if position == 0 else (409, "step_conflict")
        assert (won.status_code, lost.status_code, error_code(lost)) == (200, *expected), (won.text, lost.text)
        assert lost.json()["error"]["details"]["expected"] == position + 1
        applied.append(rivals[responses.index(won)][position])
    found = connect(pair, "two").ask(inputs=rivals[0][:1], session={"id": session, "step": 15}, **{"return": ["h_n"]})
    assert_close(found["h_n"], zoo["two"].run([*applied, rivals[0][0]]).h_n, "h_n of the steps that won")


def test_a_step_sent_twice_in_one_body_is_applied_once(pair: TorchServe, zoo: dict[str, Model], connect: Connect, session: str) -> None:
    client, inputs = connect(pair, "two"), zoo["two"].inputs(4, seed=35)
    first, second = ({"inputs": inputs[i : i + 2], "session": {"id": session, "step": i}} for i in (0, 2))
    answers = client.ask(instances=[first, first, second, second, second])["predictions"]
    assert [answer["session"]["step"] for answer in answers] == [2, 2, 4, 4, 4]
    assert [answer["session"]["replayed"] for answer in answers] == [False, True, False, True, True]
    assert_close([answers[1]["prediction"], answers[4]["prediction"]], zoo["two"].run(inputs).y[1::2], "the two steps")


def test_steps_without_a_position_are_each_applied_once(pair: TorchServe, zoo: dict[str, Model], connect: Connect, session: str) -> None:
    client, row = connect(pair, "two"), zoo["two"].inputs(1, seed=41)
    client.ask(inputs=row, session={"id": session, "step": 0})
    responses = at_once(pair, [{"inputs": row, "session": session}] * 6)
    steps = sorted(response.json()["session"]["step"] for response in responses)
    assert steps == [2, 3, 4, 5, 6, 7]
    found = client.ask(inputs=row, session={"id": session, "step": 7}, **{"return": ["h_n"]})
    assert_close(found["h_n"], zoo["two"].run(row * 8).h_n, "h_n of 8 equal steps")


def hang_up(server: TorchServe, request: dict[str, Json]) -> None:
    """Send a request and close the connection without reading a byte of the answer."""
    body = json.dumps(request).encode()
    head = [
        "POST /predictions/two HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: {server.headers()['Authorization']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection(("127.0.0.1", server.ports.inference), timeout=30) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)


def test_a_caller_that_hung_up_before_the_answer_gets_it_on_the_second_try(pair: TorchServe, zoo: dict[str, Model], session: str) -> None:
    stream = Stream(pair, zoo["two"], session, seed=51)
    rng = np.random.default_rng(52)
    for _ in range(40):
        request = stream.request()
        hang_up(pair, request)
        if stream.position and rng.random() < 0.5:  # half of the time the lost request has long been applied
            ends_at = stream.position + len(request["inputs"])
            until(lambda at=ends_at: stream.client.position(session) == at, "the lost request to be applied")
            answer = stream.client.ask(**request)
            assert answer["session"]["replayed"] is True
        else:
            answer = stream.client.ask(**request)
        stream.acknowledged(request, answer)
    stream.check()
    stream.close()
