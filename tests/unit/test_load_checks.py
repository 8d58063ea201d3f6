"""Flows send what they should, and an answer that is not the offline one is told with its reason."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from handlers.protocols.base import HttpRequest
from loadtests.load.answers import HORIZON, Answers
from loadtests.load.checks import APPLIED_TWICE, DIGITS, MALFORMED, REFUSED, SESSION, Checker, Problem, Reply, wrong_session
from loadtests.load.driver import checked
from loadtests.load.exchange import HEADER_LENGTH, Flow, action, encode, step
from loadtests.load.flows import meter, stream
from loadtests.load.preflight import PreflightError, preflight
from loadtests.load.protocol_flows import open_inference_binary
from loadtests.load.scenarios import SCENARIOS, parse_mix
from loadtests.load.transport import Target, authorization
from loadtests.offline import STEPS, WINDOW, OfflineModel
from tests.conftest import Exported, answer, make_service
from tests.support.flawed_proxy import Answer, Flaw, flawed
from tests.support.in_process import InProcess
from tests.support.load_in_process import serving


@pytest.fixture(scope="module")
def answers(two: Exported) -> Answers:
    return Answers.compute(OfflineModel(two.built.archive))


@pytest.fixture
def checker(answers: Answers) -> Checker:
    return Checker(answers)


def played(flow: Flow, service: InProcess) -> list[tuple[str, dict[str, object], Problem | None]]:
    """Every request of a flow, with what was wrong with its answer."""
    found, exchange = [], next(flow)
    while True:
        headers = {name.lower(): value for name, value in exchange.headers.items()}
        [response] = service.frontend.handle_batch([HttpRequest(exchange.body, headers)])
        length = response.headers.get(HEADER_LENGTH)
        reply = Reply(response.status, bytes(response.body), header_length=int(length) if length else None)
        request = {} if HEADER_LENGTH in exchange.headers else orjson.loads(exchange.body)
        found.append((exchange.kind, request, exchange.check(reply)))
        try:
            exchange = flow.send(reply)
        except StopIteration:
            return found


@pytest.mark.parametrize("flow", [stream, meter], ids=["stream", "meter"])
def test_a_stream_sends_every_step_once_and_in_order(two: Exported, checker: Checker, flow: Callable[..., Flow]) -> None:
    for seed in range(5):
        requests = played(flow(checker, random.Random(seed), f"s{seed}"), make_service(two))
        assert not any(problem for _, _, problem in requests)
        sent = [request for kind, request, _ in requests if kind not in ("stream: retry", "stream: close")]
        starts = np.cumsum([0, *(len(request["inputs"]) for request in sent)])  # type: ignore[arg-type]
        assert [request["session"]["step"] for request in sent] == starts[:-1].tolist()  # type: ignore[index]
        assert starts[-1] == STEPS
        assert (requests[0][0], requests[-1][0]) == ("stream: open", "stream: close")


@pytest.mark.parametrize("name", ["two", "one", "step", "learned", "words"])
def test_every_kind_of_model_answers_as_offline(exported: Callable[[str], Exported], name: str) -> None:
    """A model with a learned initial state among them."""
    model = exported(name)
    found = Answers.compute(OfflineModel(model.built.archive))
    for scenario in SCENARIOS.values():
        if scenario.fits(found) and scenario is not SCENARIOS["hostile"]:
            problems = [problem for *_, problem in played(scenario.flow(Checker(found), random.Random(1), "s"), make_service(model))]
            assert not any(problems), problems


def test_wrong_raw_bytes_are_told(two: Exported, checker: Checker) -> None:
    exchange = next(open_inference_binary(checker, random.Random(0), "s"))
    headers = {name.lower(): value for name, value in exchange.headers.items()}
    [response] = make_service(two).frontend.handle_batch([HttpRequest(exchange.body, headers)])
    right = Reply(200, bytes(response.body), header_length=int(response.headers[HEADER_LENGTH]))
    assert exchange.check(right) is None
    problems = [
        exchange.check(replace(right, content=right.content + b"more")),
        exchange.check(replace(right, header_length=None)),
        exchange.check(replace(right, content=right.content.replace(right.content[right.header_length :][:4], b"\0\0\x80?", 1))),
        exchange.check(Reply(503, b"later")),
    ]
    assert [problem.name for problem in problems if problem] == [MALFORMED, MALFORMED, DIGITS, REFUSED]


def test_a_wrong_generation_is_told(two: Exported, checker: Checker) -> None:
    service, rewind = make_service(two), {"action": "rewind", "step": 1}
    service.handle_batch([step(checker, "", "s", 0, 0, 1).body])
    told = action("", "s", 1, rewind, generation=2)
    [response] = service.handle_batch([told.body])
    problem = told.check(Reply(200, bytes(response.body)))
    assert problem == Problem(SESSION, "session.generation: 1 instead of 2")


def test_answers_are_saved_and_loaded(answers: Answers, tmp_path: Path) -> None:
    answers.save(tmp_path / "answers.npz")
    again = Answers.load(tmp_path / "answers.npz")
    assert (again.model, again.tolerance, again.future, again.per_step) == (answers.model, answers.tolerance, answers.future, False)
    assert all(np.array_equal(getattr(again, name), getattr(answers, name)) for name in ("x", "window", "stream", "forecast"))
    assert again.forecast.shape[1] == HORIZON
    assert set(again.hidden) == {"output", "h_n", "c_n"}


def test_one_streams_answers_are_wrong_for_every_other(checker: Checker, answers: Answers) -> None:
    """Else a service that mixed up two sessions would pass."""
    right = {"prediction": answers.stream[0, 7].tolist()}
    assert checker.step(0, 7, 8, right) is None
    alike = [row for row in range(1, len(answers.stream)) if checker.step(row, 7, 8, right) is None]
    assert len(alike) <= 2, "by chance"
    assert checker.step(0, 6, 7, right)


@pytest.mark.parametrize(
    "prediction",
    [None, "1.0", [], [1.0, 2.0], [[1.0]], [float("nan")], {"a": 1}],
    ids=["none", "text", "empty", "long", "deep", "nan", "object"],
)
def test_what_is_no_prediction_is_wrong(checker: Checker, prediction: object) -> None:
    assert checker.window(0, {"prediction": prediction})
    assert checker.step(0, 0, 1, {"prediction": prediction})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"step": 3}, APPLIED_TWICE),
        ({"step": 1}, SESSION),
        ({"id": "other"}, SESSION),
        ({"replayed": True}, SESSION),
        ({"closed": True}, SESSION),
    ],
)
def test_a_wrong_session_field_is_told(change: dict[str, object], name: str) -> None:
    right = {"id": "s", "step": 2, "replayed": False}
    assert wrong_session({"session": right}, "s", 2) is None
    problem = wrong_session({"session": right | change}, "s", 2)
    assert problem is not None
    assert (problem.name, next(iter(change)) in problem.detail) == (name, True)


def test_an_answer_without_a_session_is_malformed() -> None:
    assert wrong_session({}, "s", 2) == Problem(MALFORMED, "session: missing in the answer")


def test_a_delivery_that_was_lost_may_be_answered_as_a_repetition(two: Exported, checker: Checker) -> None:
    service, exchange = make_service(two), next(stream(checker, random.Random(0), "s"))
    answer(service, exchange.body)
    [again] = service.handle_batch([exchange.body])
    assert exchange.check(Reply(200, bytes(again.body), attempt=2)) is None
    assert exchange.check(Reply(200, bytes(again.body), attempt=1)) is not None, "nobody sent it before"


@pytest.mark.parametrize(("text", "said"), [("speed", "no 'speed'"), ("predict=0", "positive integer"), ("predict=x", "positive integer")])
def test_what_is_no_mix_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_mix(text)


def test_a_mix_is_read() -> None:
    assert parse_mix("stream=3, predict") == {"stream": 3, "predict": 1}
    assert set(parse_mix("")) == set(SCENARIOS)


ODD = [
    b"null",
    b"[]",
    b"{}",
    b'{"prediction": {}}',
    b'{"prediction": [1.0], "session": [1]}',
    b'{"session": {"id": [], "step": "x"}}',
    b'{"predictions": [null]}',
    b'{"predictions": null}',
    b'{"predictions": [' + b"1," * 15 + b"1]}",
    b'{"outputs": [1]}',
    b'{"parameters": 3}',
    b'{"outputs": [{"name": "y", "data": ["a"]}], "parameters": {}}',
    b'{"forecast": [[null]]}',
    b'{"output": 1}',
    b"\xff",
]


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "hostile"])
def test_an_answer_of_any_structure_is_wrong_and_ends_nothing(checker: Checker, name: str, content: bytes) -> None:
    exchange = next(SCENARIOS[name].flow(checker, random.Random(0), "s"))
    problem = checked(exchange, Reply(200, content))
    assert problem is not None
    assert problem.wrong or problem.name == REFUSED


# The pre-flight.


def refusing(status: int, body: bytes) -> Answer:
    return lambda *_: (status, body, None)


WRONG = orjson.dumps({"prediction": [0.123], "model": {"name": "two", "version": "1.0"}})
REFUSALS = {
    "key": (refusing(401, b'{"error": {"code": "unauthenticated"}}'), "refuses the key"),
    "forbidden": (refusing(403, b"{}"), "refuses the key"),
    "model": (refusing(404, b"{}"), "has no model 'two'"),
    "failing": (refusing(500, b"worker died"), "500 worker died"),
    "html": (refusing(200, b"<html>"), "not JSON"),
    "archive": (refusing(200, WRONG), "give --store the archive that is served"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_the_preflight_says_what_is_wrong(checker: Checker, name: str) -> None:
    reply, said = REFUSALS[name]
    with flawed(Flaw(), reply) as url, pytest.raises(PreflightError, match=said):
        preflight(Target(url, "two", "key"), checker)


def test_the_preflight_tells_a_server_that_is_not_there(checker: Checker) -> None:
    with flawed(Flaw(), refusing(200, b"")) as url:
        pass
    with pytest.raises(PreflightError, match="is the server up"):
        preflight(Target(url, "two", "key"), checker)


def test_the_preflight_passes_and_tells_the_version(two: Exported, checker: Checker) -> None:
    with flawed(Flaw(), serving(make_service(two))) as url:
        assert preflight(Target(url, "two", "key"), checker) == "1.0"


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert authorization(f"@{path}") == {}
    path.write_text("abc\n")
    assert authorization(f"@{path}") == authorization("abc") == {"Authorization": "Bearer abc"}


def test_arrays_are_written_as_float32(answers: Answers) -> None:
    sent = orjson.loads(encode({"inputs": answers.x[0, :WINDOW]}))["inputs"]
    assert np.array_equal(np.array(sent, np.float32), answers.x[0, :WINDOW])
