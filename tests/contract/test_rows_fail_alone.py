"""One row failing never touches another: in a body of instances, in a batch of bodies, in one model run."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import orjson
import pytest

from handlers.engine.context import ServiceContext
from handlers.errors import ConfigurationError, InternalError
from handlers.keys import ANYONE, KeyRing, dump
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import NOT_DECODED, Frontend
from handlers.protocols.rules import RequestRules
from handlers.settings import Settings
from handlers.stores.memory import MemoryStore
from tests.conftest import BACKENDS, Clock, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.adder import ADDER, POISON, Adder, Overflowing
from tests.support.in_process import InProcess
from tests.support.requests import contents, position, step


def column(*values):
    return np.array(values, np.float32)


def adder_service(backend, **settings):
    return InProcess(ServiceContext(backend, ADDER, MemoryStore(), Settings(store="memory://", **settings)), Clock())


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_batch_of_good_malformed_unknown_and_not_a_number(two, backend):
    x = two.sequence(3)
    good = {"inputs": x.tolist()}
    rows = [
        (good, 200, None),
        (b'{"inputs": [[1, 2,', 400, "malformed_json"),
        (step("nobody", 4, x), 404, "session_not_found"),
        (b'{"inputs": [[1, 2, NaN]]}', 400, "malformed_json"),
        ({"inputs": [[1, 2, 1e39]]}, 422, "invalid_input"),
        ({"inputs": [[1, 2, None]]}, 422, "invalid_input"),
        (step("a", 0, x), 200, None),
        ({"inputs": [[1, 2]]}, 422, "invalid_input"),
        ({"input": x.tolist()}, 400, "unknown_field"),
        (b"", 400, "malformed_json"),
        (good, 200, None),
    ]
    service = make_service(two, backend)
    expected = eager.run(two.model, x).prediction
    for (_, status, code), (got, reply) in zip(rows, ask(service, *(row for row, _, _ in rows)), strict=True):
        assert got == status, reply
        if code is None:
            assert_close(reply["prediction"], expected, "prediction of a good row")
        else:
            assert reply["error"]["code"] == code
    assert position(service, "a") == 3


def test_instances_are_answered_in_order_each_with_its_result_or_its_error(two):
    service, x = make_service(two), two.sequence(2)
    requests = [{"inputs": x.tolist()}, {"inputs": [[1]]}, step("a", 0, x), step("nobody", 1, x), 7]
    reply = answer(service, {"instances": requests})
    assert list(reply) == ["predictions"]
    codes = [item.get("error", {}).get("code") for item in reply["predictions"]]
    assert codes == [None, "invalid_input", None, "session_not_found", "invalid_input"]
    assert reply["predictions"][0] == answer(service, requests[0])


def test_instances_that_all_fail_are_still_an_answer(two):
    reply = answer(make_service(two), {"instances": [{}, {"inputs": 1}]})
    assert [item["error"]["code"] for item in reply["predictions"]] == ["invalid_input"] * 2


def test_instances_and_single_requests_of_one_session_meet_in_one_batch(two):
    service, x = make_service(two), two.sequence(3)
    (_, many), (_, single) = ask(service, {"instances": [step("a", 0, x[:1]), step("a", 1, x[1:2])]}, step("a", 2, x[2:]))
    assert [item["session"]["step"] for item in many["predictions"]] == [1, 2]
    assert_close(single["prediction"], eager.run(two.model, x).prediction, "prediction after all three")


def test_a_row_that_the_runtime_refuses_is_a_500_of_its_own():
    service = adder_service(Adder())
    rows = [{"inputs": [1, 2]}, step("a", 0, column(1, POISON)), step("b", 0, column(5)), {"inputs": [POISON]}]
    replies = ask(service, *rows)
    assert [status for status, _ in replies] == [200, 500, 200, 500]
    assert replies[1][1]["error"]["code"] == InternalError.code
    assert replies[0][1]["prediction"] == [3.0, 2.0]
    assert (position(service, "a"), position(service, "b")) == ("session_not_found", 1)


def test_a_row_with_gaps_that_the_runtime_refuses_is_a_500_of_its_own():
    """No other row has as many gaps, so that nothing is left to run after the last one."""
    service = adder_service(Adder())
    holes = {"session": {"id": "a", "step": 0}, "inputs": [[POISON], [None], [2.0], [None]]}
    replies = ask(service, holes, step("b", 0, column(5)), {"inputs": [[1], [None]]})
    assert [status for status, _ in replies] == [500, 200, 200]
    assert (position(service, "a"), position(service, "b")) == ("session_not_found", 1)


def test_why_the_runtime_failed_is_in_the_log_and_not_in_the_answer(caplog):
    [(_, error)] = ask(adder_service(Adder()), {"inputs": [POISON]})
    assert "poison" not in str(error)
    assert [record.getMessage() for record in caplog.records] == ["model_failed 'poison'"]


def test_inputs_that_no_record_has_room_for_refuse_to_start():
    wide = replace(ADDER, features=tuple(f"f{n}" for n in range(2**16)))
    for rewarm_steps, works in ((0, True), (1, False)):
        with nullcontext() if works else pytest.raises(ConfigurationError, match="up to 65535 features, this model has 65536"):
            ServiceContext(Adder(), wide, MemoryStore(), Settings(store="memory://", rewarm_steps=rewarm_steps))


def test_a_forecast_that_the_runtime_refuses_is_a_500_of_its_own():
    """POISON comes up in the rollout only: the runtime failed, the model did not leave the numbers."""
    service = adder_service(Adder())
    rows = [{"inputs": [4.0, POISON - 4.0], "horizon": 3}, {"inputs": [1], "horizon": 3}]
    (failed, error), (served, reply) = ask(service, *rows)
    assert (failed, error["error"]["code"], served) == (500, "internal_error", 200)
    assert reply["forecast"] == [[1, 1], [2, 2], [4, 3]]


def test_a_row_is_as_finite_beside_others_as_it_is_alone():
    """Shorter neighbours cut a row into pieces; the y at such a cut is nobody's result."""
    request, neighbour = {"inputs": [1000, 2]}, {"inputs": [1]}
    service = adder_service(Overflowing())
    assert ask(service, request)[0] == ask(service, request, neighbour)[0]


def test_a_result_that_is_not_finite_is_refused_and_nothing_is_applied():
    service = adder_service(Overflowing())
    answer(service, step("a", 0, column(1)))
    status, code, error = refusal(service, step("a", 1, column(1000)))
    assert (status, code) == (422, "non_finite_result")
    assert "nothing was applied" in error["message"]
    assert position(service, "a") == 1
    assert answer(service, step("a", 1, column(2)))["prediction"] == [3.0, 2.0]


BIG = 3e38  # a float32, and beyond it once normalised or summed up
LAYERS = [[0.0] * 8] * 2
EXTREMES = {
    "inputs": {"inputs": [[BIG, BIG, BIG]]},
    "future": {"inputs": [[3, 0.5, -1]], "horizon": 2, "future": [[BIG, BIG], [0, 0]]},
    "h_n": {"inputs": [[3, 0.5, -1]], "state": {"h_n": [[BIG] * 8] * 2, "c_n": LAYERS}},
    "c_n": {"inputs": [[3, 0.5, -1]], "state": {"h_n": LAYERS, "c_n": [[BIG, -BIG] * 4] * 2}},
}


@pytest.mark.parametrize("request_", EXTREMES.values(), ids=EXTREMES.keys())
def test_a_number_near_the_end_of_all_numbers_is_refused_or_answered_rightly_by_every_runtime(two, request_):
    """Where PyTorch says that there is no number, no runtime may serve one."""
    for session in ({}, {"session": {"id": "a", "step": 0}}):
        store = MemoryStore()
        replies = [ask(make_service(two, backend, store if session else None), request_ | session)[0] for backend in BACKENDS[::-1]]
        statuses = [status for status, _ in replies]
        assert statuses[0] == statuses[1] in (200, 422), replies
        for field in ("prediction", "forecast"):
            if field in replies[0][1]:
                assert_close(replies[1][1][field], replies[0][1][field], f"{field} of the two runtimes")
        assert statuses[0] == 200 or contents(store) == {}


def test_a_forecast_that_is_not_finite_is_refused_and_the_session_stays():
    service = adder_service(Overflowing())
    answer(service, step("a", 0, column(500)))
    status, code, _ = refusal(service, step("a", 1, column(0), horizon=3))  # 500, then 1000 is fed back
    assert (status, code) == (422, "non_finite_result")
    assert position(service, "a") == 1


def test_a_batch_out_of_time_is_429_for_what_is_left_and_nothing_to_what_is_done():
    service = adder_service(Adder(), batch_seconds=1e-9)
    (status, reply), (shown, _) = ask(service, step("a", 0, column(1, 2)), {"session": {"id": "a", "action": "describe"}})
    assert (status, reply["error"]["code"], reply["error"]["retryable"], shown) == (429, "overloaded", True, 404)


def test_a_large_message_is_never_echoed(two):
    for body in (b'{"' + b"x" * 100_000 + b'": 1}', orjson.dumps({"inputs": "y" * 100_000}), orjson.dumps({"session": "z" * 100_000})):
        [outcome] = make_service(two).handle_batch([body])
        assert outcome.status >= 400
        assert len(outcome.body) < 1_000


def test_a_body_that_a_defect_of_the_service_cannot_decode_is_a_500_of_its_own(two, monkeypatch, caplog):
    service, x = make_service(two), two.sequence(1)
    check = RequestRules.check

    def defective(self, request):
        if request.session is not None and request.session.id == "bad":
            raise ZeroDivisionError
        check(self, request)

    monkeypatch.setattr(RequestRules, "check", defective)
    good, bad, also = ask(service, step("a", 0, x), step("bad", 0, x) | {"commit": True}, step("b", 0, x))
    assert (good[0], also[0]) == (200, 200)
    assert (bad[0], bad[1]["error"]["code"]) == (500, "internal_error")
    assert "nothing was applied" in bad[1]["error"]["message"]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("place", ["handlers.keys.KeyRing.authenticate", "handlers.protocols.frontend.decompressed"])
def test_a_defect_on_the_way_to_the_codec_is_a_500_of_its_own(two, monkeypatch, caplog, tmp_path, place):
    (tmp_path / "keys.json").write_bytes(dump([]))
    service = make_service(two).frontend.service
    frontend = Frontend(service, KeyRing(tmp_path / "keys.json")) if "KeyRing" in place else Frontend(service)
    good = HttpRequest(orjson.dumps({"inputs": two.sequence(1).tolist()}))
    bad = HttpRequest(b'{"inputs": [{"datatype": 1}]}', {"content-encoding": "gzip", "x-api-key": "bad"})

    def defective(first, *others):
        headers = first.headers if isinstance(first, HttpRequest) else others[0]
        if headers.get("x-api-key") == "bad":
            raise ZeroDivisionError
        return first if isinstance(first, HttpRequest) else ANYONE

    monkeypatch.setattr(place, defective)
    responses = frontend.handle_batch([good, bad, good])
    assert [response.status for response in responses] == [200, 500, 200]
    assert orjson.loads(responses[1].body) == {"error": f"internal_error: {NOT_DECODED}"}
    assert [record.getMessage() for record in caplog.records] == ["internal_error"]
