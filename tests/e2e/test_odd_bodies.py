"""No input whatever is answered with a 5xx, ends the worker, or touches the requests beside it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Client, Connect, error_code, until
from tests.support.odd_bodies import Odd, bodies, mutations, undecodable
from tests.support.served_models import Model, assert_close
from tests.support.streams import Stream

pytestmark = pytest.mark.e2e
CALLERS = 6


def send_all(server: TorchServe, sent: Sequence[Odd], complaint: Callable[[Odd, httpx.Response], str]) -> list[str]:
    """Send the bodies from several callers at once; what was wrong with the answers."""

    def share(first: int) -> list[str]:
        with Client(server, "two") as client:
            return [complaint(odd, client.post(odd.body, odd.content_type)) for odd in sent[first::CALLERS]]

    with ThreadPoolExecutor(CALLERS) as pool:
        return [text for part in pool.map(share, range(CALLERS)) for text in part if text]


@contextmanager
def good_traffic(server: TorchServe, model: Model, name: str) -> Iterator[None]:
    """Two streams beside whatever the block does; afterwards every one of their answers is checked."""
    streams = [Stream(server, model, f"{name}-{i}", seed=i) for i in range(2)]
    stop = threading.Event()
    with ThreadPoolExecutor(len(streams)) as pool:
        running = [pool.submit(stream.run, stop) for stream in streams]
        try:
            yield
            until(lambda: all(stream.position > 50 for stream in streams), "good traffic beside the rest")
        finally:
            stop.set()
        for result in running:
            result.result()
    for stream in streams:
        assert stream.unanswered == 0, f"{stream.id}: {stream.unanswered} good requests were not answered"
        stream.check()
        stream.close()


def not_refused(odd: Odd, response: httpx.Response) -> str:
    """Empty for a 4xx with code and message, in the form of the body's protocol, or the host's own 413; else what came."""
    if response.status_code == 413 and not response.content:
        return ""
    in_one_string = "instances" in odd.what and isinstance(response.json().get("error"), str)  # KServe V1
    message = response.json()["error"]["message"] if error_code(response) else in_one_string
    fine = 400 <= response.status_code < 500 and message
    return "" if fine else f"{odd.what}: {response.status_code} {response.text[:200]}"


def failed(odd: Odd, response: httpx.Response) -> str:
    """Empty unless the service blames itself."""
    return f"{odd.what}: {response.status_code} {odd.body!r}" if response.status_code >= 500 else ""


def test_every_odd_body_is_refused_in_words_and_touches_nothing_else(
    served: TorchServe, zoo: dict[str, Model], connect: Connect, session: str
) -> None:
    client = connect(served, "two")
    sent = bodies(client.ask(inputs=[[50, 0, 1]], **{"return": ["state"]})["state"])
    assert len(sent) >= 500
    workers = served.worker_pids("two")
    with good_traffic(served, zoo["two"], session):
        complaints = send_all(served, sent, not_refused)
    assert not complaints, f"{len(complaints)} of {len(sent)}:\n" + "\n".join(complaints[:20])
    assert served.worker_pids("two") == workers
    for name in ("odd", "odd-2", "text"):
        client.refusal(404, "session_not_found", session={"id": name, "action": "describe"})


@pytest.mark.xfail(strict=True, reason="the host decodes forms before anything of ours sees them, and answers 500 when it cannot")
def test_a_form_that_the_host_cannot_decode_is_the_caller_s_fault(served: TorchServe) -> None:
    complaints = send_all(served, undecodable(), not_refused)
    assert not complaints, "\n".join(complaints)


def test_a_form_that_the_host_cannot_decode_reaches_no_worker(served: TorchServe, zoo: dict[str, Model], session: str) -> None:
    workers = served.worker_pids("two")
    with good_traffic(served, zoo["two"], session):
        complaints = send_all(served, undecodable(), lambda odd, response: "" if response.status_code >= 400 else odd.what)
    assert not complaints, "\n".join(complaints)
    assert served.worker_pids("two") == workers


def test_no_mutation_of_a_good_body_is_answered_with_a_5xx(served: TorchServe, zoo: dict[str, Model], session: str) -> None:
    workers = served.worker_pids("two")
    with good_traffic(served, zoo["two"], session):
        complaints = send_all(served, list(mutations(300)), failed)
    assert not complaints, "\n".join(complaints[:20])
    assert served.worker_pids("two") == workers


def test_a_bad_instance_fails_alone(served: TorchServe, zoo: dict[str, Model], connect: Connect) -> None:
    good = {"inputs": zoo["two"].inputs(5, seed=21)}
    lost = good | {"session": {"id": "odd", "step": 4}}
    rows = [good, None, good, {"inputs": [[1, 2, "3"]]}, good, {"inputs": [[1e39, 0, 0]]}, good, lost, good]
    results = connect(served, "two").ask(instances=rows)["predictions"]
    assert [list(result) for result in results[::2]] == [["prediction", "model"]] * 5
    codes = [result["error"]["code"] for result in results[1::2]]
    assert codes == ["invalid_input", "invalid_input", "invalid_input", "session_not_found"]
    for result in results[::2]:
        assert_close(result["prediction"], zoo["two"].whole(good["inputs"]), "the good rows")


def test_an_answer_larger_than_the_host_can_carry_is_refused_before_a_step_is_applied(
    served: TorchServe, zoo: dict[str, Model], connect: Connect, session: str
) -> None:
    """The host ends a worker whose reply is too large."""
    client, workers = connect(served, "two"), served.worker_pids("two")
    inputs = zoo["two"].inputs(10_000, seed=22)
    rows = [{"inputs": inputs, "session": {"id": f"{session}-{i}", "step": 0}, "return": ["output"]} for i in range(8)]
    results = client.ask(instances=rows)["predictions"]
    assert [result["error"]["code"] for result in results] == ["too_large"] * 8
    for row in rows:
        client.refusal(404, "session_not_found", session={"id": row["session"]["id"], "action": "describe"})
    assert_close(client.ask(**rows[0])["output"], zoo["two"].run(inputs).output, "the output of 10,000 steps, alone")
    assert served.worker_pids("two") == workers
