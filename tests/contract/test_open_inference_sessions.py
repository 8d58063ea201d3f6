"""Sessions through the Open Inference Protocol: sequences as Triton's clients send them, exactly once, and many in one request."""

import numpy as np
import orjson
import pytest

from handlers.protocols.base import HttpRequest
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, make_service, refusal
from tests.contract.test_open_inference import EVERYTHING, OUTPUTS, as_float32, both_forms
from tests.support.open_inference_client import infer, request, texts
from tests.support.requests import step


@pytest.fixture
def service(two):
    return make_service(two, keep_versions=3)


# Sequences, as Triton's clients send them.


@pytest.mark.parametrize("names", [(1007, 1008), ("meter-7", "meter-8")])
def test_two_interleaved_sequences(two, service, names):
    x, found = [two.sequence(5, seed=i) for i in range(2)], {}
    for t in range(5):
        for name, rows in zip(names, x, strict=True):
            found[name] = infer(
                service, True, inputs={"x": rows[None, t : t + 1]}, sequence_id=name, sequence_start=t == 0, sequence_end=t == 4
            )
            assert found[name].status == 200
    for name, rows in zip(names, x, strict=True):
        parameters = found[name].parameters
        assert parameters == {"sequence_id": str(name), "step": 5, "generation": 0, "replayed": False, "sequence_end": True}
        np.testing.assert_allclose(found[name].outputs["y"], infer(service, inputs={"x": rows[None]}).outputs["y"], atol=2e-5)
        assert refusal(service, step(str(name), 5, rows[:1]))[1] == "session_closed"


def test_a_measurement_that_is_missing_among_raw_bytes_is_imputed(two, service):
    x = two.sequence(2)
    infer(service, True, inputs={"x": x[None, :1]}, sequence_id=7, sequence_start=True)
    x[1, 0] = np.nan
    hole = infer(service, True, inputs={"x": x[None, 1:]}, sequence_id=7)
    assert hole.status == 200
    assert np.isfinite(hole.outputs["y"]).all()


def test_a_start_begins_anew_whatever_was_there(two, service):
    x = two.sequence(4)
    first = infer(service, inputs={"x": x[None, :1]}, sequence_id=7, sequence_start=True)
    infer(service, inputs={"x": x[None, 1:]}, sequence_id=7)
    for end in (True, False):  # over a live session, then over a closed one
        again = infer(service, inputs={"x": x[None, :1]}, sequence_id=7, sequence_start=True, sequence_end=end)
        assert (again.outputs["y"] == first.outputs["y"]).all()
        assert again.parameters["step"] == 1
    assert again.parameters["generation"] == 2, "a step of an earlier generation must not be taken for one of this"


def test_a_start_that_names_its_step_never_resets(two, service):
    x = two.sequence(2)
    start = {"inputs": {"x": x[None, :1]}, "sequence_id": 7, "sequence_start": True, "step": 0}
    assert infer(service, **start).parameters["replayed"] is False
    assert infer(service, **start).parameters["replayed"] is True
    infer(service, inputs={"x": x[None, 1:]}, sequence_id=7, step=1)
    assert infer(service, **start).error.startswith("session_exists: ")


@pytest.mark.parametrize("name", [0, ""])
def test_no_sequence_is_no_session(two, service, name):
    found = infer(service, inputs={"x": two.sequence(2)[None]}, sequence_id=name, sequence_start=False, sequence_end=False)
    assert (found.status, found.parameters) == (200, {})


def test_a_sequence_that_was_not_started_is_not_found(two, service):
    found = infer(service, inputs={"x": two.sequence(2)[None]}, sequence_id=7)
    assert (found.status, found.error[:18]) == (404, "session_not_found:")


def test_priority_and_timeout_are_triton_s_own(two, service):
    assert infer(service, inputs={"x": two.sequence(2)[None]}, priority=1, timeout=10).status == 200


# Exactly once.


@both_forms
def test_a_step_sent_again_is_answered_from_the_record(two, service, binary):
    x = two.sequence(3)
    sent = {"inputs": {"x": x[None, :2]}, "sequence_id": 7, "sequence_start": True, "step": 0, "outputs": OUTPUTS}
    first, second = infer(service, binary, **sent), infer(service, binary, **sent)
    assert [found.parameters["replayed"] for found in (first, second)] == [False, True]
    for name in OUTPUTS:
        assert (first.outputs[name] == second.outputs[name]).all()
    conflict = infer(service, inputs={"x": x[None, 2:]}, sequence_id=7, step=5)
    assert (conflict.status, conflict.error[:14]) == (409, "step_conflict:")


@both_forms
def test_a_retry_may_change_its_language(two, service, binary):
    x = two.sequence(4)
    native = answer(service, step("a", 0, x[:2]) | {"return": EVERYTHING})
    retried = infer(service, binary, inputs={"x": x[None, :2]}, sequence_id="a", step=0, outputs=OUTPUTS)
    assert retried.parameters["replayed"] is True
    assert (retried.outputs["h_n"][:, 0] == as_float32(native, "h_n")).all()
    assert (retried.outputs["y"][0] == as_float32(native, "prediction")).all()
    sent = infer(service, binary, inputs={"x": x[None, 2:]}, sequence_id="a", step=2)
    again = answer(service, step("a", 2, x[2:]))
    assert again["session"]["replayed"] is True
    assert (as_float32(again, "prediction") == sent.outputs["y"][0]).all()


def test_the_last_step_sent_again_is_answered_and_the_session_stays_closed(two, service):
    x = two.sequence(3)
    infer(service, inputs={"x": x[None, :2]}, sequence_id=7, sequence_start=True)
    last = {"inputs": {"x": x[None, 2:]}, "sequence_id": 7, "step": 2}
    first = infer(service, **last, sequence_end=True)
    assert first.parameters["sequence_end"] is True
    for end in (True, False):
        again = infer(service, **last, sequence_end=end)
        assert again.parameters == first.parameters | {"replayed": True}
        assert (again.outputs["y"] == first.outputs["y"]).all()


def test_an_end_that_repeats_a_step_closes_the_session(two, service):
    sent = {"inputs": {"x": two.sequence(3)[None]}, "sequence_id": 7, "step": 0}
    infer(service, **sent)
    assert infer(service, **sent, sequence_end=True).parameters["sequence_end"] is True
    assert refusal(service, {"session": {"id": "7", "action": "describe"}})[1] == "session_closed"


def test_an_end_whose_step_is_refused_ends_nothing(two, service):
    x = two.sequence(3)
    infer(service, inputs={"x": x[None]}, sequence_id=7, sequence_start=True)
    assert infer(service, inputs={"x": x[None]}, sequence_id=7, step=9, sequence_end=True).status == 409
    assert infer(service, inputs={"x": np.full((1, 1, 3), np.nan, np.float32)}, binary=True, sequence_id=7, sequence_end=True).status == 422
    assert answer(service, {"session": {"id": "7", "action": "describe"}})["session"]["step"] == 3


def test_a_step_of_another_generation_is_refused(two, service):
    x = two.sequence(3)
    infer(service, inputs={"x": x[None, :1]}, sequence_id=7, sequence_start=True)
    infer(service, inputs={"x": x[None, 1:2]}, sequence_id=7)
    answer(service, {"session": {"id": "7", "action": "rewind", "step": 1}})
    assert infer(service, inputs={"x": x[None, 1:2]}, sequence_id=7, step=1, generation=0).status == 409
    assert infer(service, inputs={"x": x[None, 1:2]}, sequence_id=7, step=1, generation=1).status == 200


def test_what_if_leaves_the_session(two, service):
    infer(service, inputs={"x": two.sequence(3)[None]}, sequence_id=7, sequence_start=True)
    assert infer(service, inputs={"x": two.sequence(2)[None]}, sequence_id=7, commit=False).parameters["step"] == 3
    assert infer(service, inputs={"x": two.sequence(2)[None]}, sequence_id=7, commit=False, sequence_end=True).status == 422


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_if_a_sequence_began_anew_leaves_the_session_where_it_is(two, service, is_closed):
    x = two.sequence(3)
    infer(service, inputs={"x": x[None]}, sequence_id=7, sequence_start=True)
    before = infer(service, inputs={"x": x[None]}, sequence_id=7, sequence_start=True, sequence_end=is_closed)
    found = infer(service, inputs={"x": x[None]}, sequence_id=7, sequence_start=True, commit=False)
    assert (found.outputs["y"] == before.outputs["y"]).all()
    assert (found.parameters["step"], found.parameters["generation"]) == (3, 1)
    assert found.parameters.get("sequence_end", False) == is_closed


def test_the_first_step_of_a_sequence_that_began_anew_is_answered_again_in_its_generation(two, service):
    x = two.sequence(1)
    start = {"inputs": {"x": x[None]}, "sequence_id": 7, "sequence_start": True}
    infer(service, **start)
    assert infer(service, **start).parameters["generation"] == 1
    assert infer(service, **start, step=0, generation=1).parameters["replayed"] is True
    assert infer(service, **start, step=0, generation=0).error.startswith("step_conflict: ")


def test_a_repeat_whose_reply_is_too_large_does_not_end_the_sequence(two):
    store, x = MemoryStore(), two.sequence(3)
    service, narrow = (make_service(two, store=store, max_reply=most) for most in (1_000_000, 20))
    sent = {"inputs": {"x": x[None]}, "sequence_id": 7, "step": 0, "outputs": ["h_n", "y"]}
    infer(service, **sent)
    assert infer(narrow, **sent, sequence_end=True).error.startswith("too_large: ")
    assert answer(service, {"session": {"id": "7", "action": "describe"}})["session"]["step"] == 3


def test_a_reply_that_is_too_large_is_refused_before_the_commit(two):
    service = make_service(two, max_reply=200)
    found = infer(service, inputs={"x": two.sequence(9)[None]}, sequence_id=7, sequence_start=True, outputs=["output"])
    assert (found.status, found.error[:10]) == (413, "too_large:")
    assert infer(service, inputs={"x": two.sequence(1)[None]}, sequence_id=7).status == 404


# Many sessions in one request.


@both_forms
def test_many_sessions_step_in_one_request(two, service, binary):
    x, names = np.stack([two.sequence(4, seed=i) for i in range(3)]), texts("a", "b", "c")
    first = infer(service, binary, inputs={"x": x[:, :3], "session": names, "step": np.zeros(3, np.int64)})
    assert first.outputs["step"].tolist() == [3, 3, 3]
    second = infer(service, binary, inputs={"x": x[:, 3:], "session": names, "step": first.outputs["step"]}, outputs=["y", "h_n"])
    assert list(second.outputs) == ["y", "h_n", "step", "generation", "status", "error"]
    assert second.outputs["status"].tolist() == [200] * 3
    assert second.outputs["error"].tolist() == [""] * 3
    np.testing.assert_allclose(second.outputs["y"], infer(service, inputs={"x": x}).outputs["y"], atol=2e-5)


@both_forms
def test_a_row_fails_alone(two, service, binary):
    x = np.stack([two.sequence(2, seed=i) for i in range(4)])
    x[2, 1, 0] = 1e38
    answer(service, step("b", 0, x[1]))
    names, steps = texts("a", "b", "c", "no id!"), np.array([0, 9, 0, 0])
    found = infer(service, binary, inputs={"x": x, "session": names, "step": steps}, outputs=["y", "c_n", "state"])
    assert found.status == 200
    assert found.outputs["status"].tolist() == [200, 409, 422, 422]
    assert found.outputs["step"].tolist() == [2, 2, -1, -1]
    assert [error.split(":")[0] for error in found.outputs["error"]] == ["", "step_conflict", "invalid_input", "invalid_input"]
    assert np.isnan(found.outputs["y"][:, 0]).tolist() == [False, True, True, True]
    assert np.isnan(found.outputs["c_n"][:, :, 0]).tolist() == [[False, True, True, True]] * 2
    assert [bool(state) for state in found.outputs["state"]] == [True, False, False, False]


def test_without_one_good_row_only_what_became_of_them_is_answered(two, service):
    found = infer(service, inputs={"x": two.sequence(1)[None], "session": texts("a"), "step": np.array([4])})
    assert found.status == 200
    assert list(found.outputs) == ["step", "generation", "status", "error"]
    assert found.outputs["status"].tolist() == [404]


@both_forms
def test_what_became_of_the_rows_may_be_asked_for_by_name(two, service, binary):
    x = np.stack([two.sequence(2, seed=i) for i in range(2)])
    rows = {"inputs": {"x": x, "session": texts("a", "b"), "step": np.array([0, 9])}}
    named = infer(service, binary, outputs=["status", "y", "error"], **rows)
    assert list(named.outputs) == ["y", "step", "generation", "status", "error"]
    assert named.outputs["status"].tolist() == [200, 404]
    assert list(infer(service, binary, outputs=["status"], **rows).outputs) == ["step", "generation", "status", "error"]
    refused = infer(service, binary, inputs={"x": x}, outputs=["y", "status"])
    assert (refused.status, refused.error) == (422, "invalid_input: outputs: status goes with the input session")


def test_each_output_is_answered_as_raw_bytes_or_not_as_it_was_asked_for(two, service):
    document = orjson.loads(request(inputs={"x": two.sequence(1)[None], "session": texts("a"), "step": np.array([0])}).body)
    document["outputs"] = [{"name": "y"}, {"name": "step", "parameters": {"binary_data": True}}]
    [response] = service.frontend.handle_batch([HttpRequest(orjson.dumps(document))])
    length = int(response.headers["Inference-Header-Content-Length"])
    found = {output["name"]: "data" in output for output in orjson.loads(response.body[:length])["outputs"]}
    assert found == {"y": True, "step": False, "generation": True, "status": True, "error": True}
    assert response.body[length:] == (1).to_bytes(8, "little")


def test_a_step_is_a_parameter_or_a_tensor(two, service):
    rows = {"inputs": {"x": two.sequence(1)[None], "session": texts("a"), "step": np.array([0])}}
    refused = infer(service, step=0, **rows)
    assert (refused.status, refused.error[:70]) == (422, "invalid_input: step: send it as a parameter, for all rows, or as a ten")


def test_one_session_twice_in_a_request_steps_twice(two, service):
    x = np.stack([two.sequence(1, seed=i) for i in range(2)])
    found = infer(service, inputs={"x": x, "session": texts("a", "a"), "step": np.array([0, 1])})
    assert found.outputs["step"].tolist() == [1, 2]


def test_many_sessions_are_started_and_ended(two, service):
    x, names = np.stack([two.sequence(2, seed=i) for i in range(2)]), texts("a", "b")
    infer(service, inputs={"x": x, "session": names}, sequence_start=True)
    assert infer(service, inputs={"x": x, "session": names}, sequence_end=True).outputs["step"].tolist() == [4, 4]
    assert infer(service, inputs={"x": x, "session": names}).outputs["status"].tolist() == [410, 410]


def test_without_sessions_the_first_error_is_the_answer(two, service):
    x = np.stack([two.sequence(2, seed=i) for i in range(3)])
    x[1] = 1e38
    found = infer(service, True, inputs={"x": x})
    assert (found.status, found.error[:21]) == (422, "invalid_input: x[1][0")
