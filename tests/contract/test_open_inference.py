"""The Open Inference Protocol over the service: the native protocol's numbers to the digit, in JSON and as raw bytes."""

from dataclasses import replace

import numpy as np
import orjson
import pytest

from handlers.errors import StoreUnavailable
from handlers.protocols.base import HttpRequest
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, make_service
from tests.support.open_inference_client import infer, read, request, texts

EVERYTHING = ["prediction", "output", "h_n", "c_n"]
OUTPUTS = ["y", "output", "h_n", "c_n"]
both_forms = pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])


@pytest.fixture
def service(two):
    return make_service(two, keep_versions=3)


def as_float32(reply, name):
    return np.array(reply[name], np.float32)


@both_forms
def test_windows_are_predicted_as_natively(two, service, binary):
    x = np.stack([two.sequence(5, seed=i) for i in range(3)])
    found = infer(service, binary, inputs={"x": x}, outputs=OUTPUTS, id="7")
    assert (found.status, found.binary) == (200, binary)
    assert [found.document[name] for name in ("model_name", "model_version", "id")] == ["two", "1.0", "7"]
    for i in range(3):
        native = answer(service, {"inputs": x[i].tolist(), "return": EVERYTHING})
        assert (found.outputs["y"][i] == as_float32(native, "prediction")).all()
        assert (found.outputs["output"][i] == as_float32(native, "output")).all()
        assert (found.outputs["h_n"][:, i] == as_float32(native, "h_n")).all()
        assert (found.outputs["c_n"][:, i] == as_float32(native, "c_n")).all()


@both_forms
def test_without_a_choice_the_prediction_is_returned(two, service, binary):
    found = infer(service, binary, inputs={"x": two.sequence(5)[None]})
    assert list(found.outputs) == ["y"]
    assert found.outputs["y"].shape == (1, 1)
    assert "id" not in found.document


@pytest.mark.parametrize("kind", [np.float64, np.int64, np.int32])
def test_numbers_of_another_datatype_are_taken(two, service, kind):
    x = np.round(two.sequence(4)).astype(kind)
    expected = infer(service, inputs={"x": x.astype(np.float32)[None]}).outputs["y"]
    assert (infer(service, True, inputs={"x": x[None]}).outputs["y"] == expected).all()


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_token_ids_are_taken(exported, kind):
    service, x = make_service(exported("words")), exported("words").sequence(6)
    found = infer(service, True, inputs={"x": x.astype(kind)[None]})
    assert (found.outputs["y"][0] == as_float32(answer(service, {"inputs": x.tolist()}), "prediction")).all()


def test_a_prediction_at_every_step_has_an_axis_for_it(exported):
    service, x = make_service(exported("step")), exported("step").sequence(6)
    found = infer(service, inputs={"x": np.stack([x, x])}).outputs["y"]
    assert found.shape == (2, 6, 1)
    assert (found[1] == as_float32(answer(service, {"inputs": x.tolist()}), "prediction")).all()


def test_a_model_that_cannot_stream_serves_windows(exported):
    service, x = make_service(exported("bidirectional")), exported("bidirectional").sequence(6)
    assert infer(service, inputs={"x": x[None]}).status == 200
    found = infer(service, inputs={"x": x[None]}, sequence_id=5)
    assert (found.status, found.error[:13]) == (422, "invalid_input")


@both_forms
@pytest.mark.parametrize("held", ["tensors", "opaque"])
def test_the_caller_may_hold_the_state(two, service, binary, held):
    x = np.stack([two.sequence(6, seed=i) for i in range(2)])
    whole = infer(service, inputs={"x": x}).outputs["y"]
    first = infer(service, binary, inputs={"x": x[:, :4]}, outputs=["h_n", "c_n", "state"]).outputs
    state = {"h_0": first["h_n"], "c_0": first["c_n"]} if held == "tensors" else {"state": texts(*first["state"])}
    found = infer(service, binary, inputs={"x": x[:, 4:], **state}).outputs["y"]
    np.testing.assert_allclose(found, whole, atol=2e-5)


@both_forms
def test_a_forecast_is_rolled_out(two, service, binary):
    x, future = two.sequence(5)[None], np.zeros((1, 4, 2), np.float32)
    found = infer(service, binary, inputs={"x": x, "future": future}, horizon=4)
    native = answer(service, {"inputs": x[0].tolist(), "horizon": 4, "future": future[0].tolist()})
    assert list(found.outputs) == ["y", "forecast"]
    assert (found.outputs["forecast"][0] == as_float32(native, "forecast")).all()


# What is refused.

X = np.zeros((2, 2, 3), np.float32)
WRONG = {
    "no x": {"inputs": {"state": texts("a")}},
    "an unknown tensor": {"inputs": {"x": X, "X": X}},
    "an unknown parameter": {"inputs": {"x": X}, "sequnce_id": 5},
    "an unknown output": {"inputs": {"x": X}, "outputs": ["Y"]},
    "an output twice": {"inputs": {"x": X}, "outputs": ["y", "y"]},
    "a forecast without a horizon": {"inputs": {"x": X}, "outputs": ["forecast"]},
    "x without a batch": {"inputs": {"x": X[0]}},
    "x of other features": {"inputs": {"x": X[..., :2]}},
    "x of four axes": {"inputs": {"x": X[..., None]}},
    "x of texts": {"inputs": {"x": np.full((1, 1, 3), b"1", object)}},
    "a start without a sequence": {"inputs": {"x": X[:1]}, "sequence_start": True},
    "an end without a sequence": {"inputs": {"x": X[:1]}, "sequence_end": True},
    "a step without a sequence": {"inputs": {"x": X[:1]}, "step": 3},
    "a sequence of two rows": {"inputs": {"x": X}, "sequence_id": 5},
    "a sequence and sessions": {"inputs": {"x": X[:1], "session": texts("a")}, "sequence_id": 5},
    "a sequence that is true": {"inputs": {"x": X[:1]}, "sequence_id": True},
    "a sequence that is a fraction": {"inputs": {"x": X[:1]}, "sequence_id": 5.5},
    "a sequence that is no id": {"inputs": {"x": X[:1]}, "sequence_id": "a b"},
    "a start at another step": {"inputs": {"x": X[:1]}, "sequence_id": 5, "sequence_start": True, "step": 3},
    "a start that is a number": {"inputs": {"x": X[:1]}, "sequence_id": 5, "sequence_start": 1},
    "a negative step": {"inputs": {"x": X[:1]}, "sequence_id": 5, "step": -1},
    "a step that is text": {"inputs": {"x": X[:1]}, "sequence_id": 5, "step": "3"},
    "a horizon that is true": {"inputs": {"x": X[:1]}, "horizon": True},
    "a horizon without a future": {"inputs": {"x": X[:1]}, "horizon": 2},
    "a future without a horizon": {"inputs": {"x": X[:1], "future": np.zeros((1, 2, 2), np.float32)}},
    "a future of other steps": {"inputs": {"x": X[:1], "future": np.zeros((1, 3, 2), np.float32)}, "horizon": 2},
    "a future of other rows": {"inputs": {"x": X[:1], "future": np.zeros((2, 2, 2), np.float32)}, "horizon": 2},
    "a future without rows": {"inputs": {"x": X[:1], "future": np.zeros((2, 2), np.float32)}, "horizon": 2},
    "half a state": {"inputs": {"x": X, "h_0": np.zeros((2, 2, 8), np.float32)}},
    "a state of other rows": {"inputs": {"x": X, "h_0": np.zeros((2, 1, 8), np.float32), "c_0": np.zeros((2, 1, 8), np.float32)}},
    "two states": {"inputs": {"x": X, "h_0": np.zeros((2, 2, 8), np.float32), "state": texts("a", "b")}},
    "a state that is none": {"inputs": {"x": X[:1], "state": texts("a")}},
    "a state that is infinite": {
        "inputs": {"x": X[:1], "h_0": np.full((2, 1, 8), np.inf, np.float32), "c_0": np.zeros((2, 1, 8), np.float32)}
    },
    "texts of other rows": {"inputs": {"x": X, "session": texts("a")}},
    "sessions that are numbers": {"inputs": {"x": X, "session": np.array([1, 2])}},
    "steps that are texts": {"inputs": {"x": X, "session": texts("a", "b"), "step": texts("0", "0")}},
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_an_error_in_the_protocol_s_form(two, service, name):
    found = infer(service, True, **WRONG[name])
    assert found.status in (400, 422), found.document
    assert list(found.document) == ["error"]
    assert found.error.split(":")[0] in ("invalid_input", "unknown_field", "malformed_json")


@pytest.mark.parametrize(
    "asked",
    [{"model_version": "1.0"}, {"model_version": None}, {"path": "/v2/models/two/versions/1.0/infer"}, {"path": "/v2/models/two/infer"}],
)
def test_the_version_that_is_asked_for_answers(service, asked):
    assert version_asked(service, **asked).status == 200


@pytest.mark.parametrize("asked", [{"model_version": "2.0"}, {"path": "/v2/models/two/versions/2.0/infer"}])
def test_another_version_never_answers_in_its_place(service, asked):
    found = version_asked(service, **asked)
    assert (found.status, found.error) == (
        422, "invalid_input: model_version: '2.0' is asked for, but this request reached two-1.0; send it to /predictions/two/{version}"
    )  # fmt: skip


def version_asked(service, path="", **fields):
    body = orjson.dumps(fields | orjson.loads(request(inputs={"x": X}).body))
    [response] = service.frontend.handle_batch([HttpRequest(body, path=path)])
    return read(response.status, response.body, None)


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'{"inputs": [[1, 2, 3]]}'])
def test_on_its_own_route_every_error_has_the_protocol_s_form(service, body):
    [response] = service.frontend.handle_batch([HttpRequest(body, path="/v2/")])
    assert response.status in (400, 422)
    assert isinstance(orjson.loads(response.body)["error"], str)


@both_forms
def test_a_model_s_clients_may_call_its_tensors_otherwise(two, binary):
    """As a server whose place this one takes may have called them."""
    renamed = replace(two, signature=replace(two.signature, tensors={"x": "INPUT__0", "y": "OUTPUT__0"}))
    service, x = make_service(renamed), two.sequence(4)[None]
    expected = infer(make_service(two), binary, inputs={"x": x}).outputs["y"]
    for outputs in (None, ["OUTPUT__0"]):
        found = infer(service, binary, inputs={"INPUT__0": x}, outputs=outputs).outputs
        assert list(found) == ["OUTPUT__0"]
        assert (found["OUTPUT__0"] == expected).all()
    assert infer(service, inputs={"x": x}).status == 400
    assert infer(service, inputs={"INPUT__0": x}, outputs=["y"]).status == 422
    assert infer(service, inputs={"INPUT__0": x[0]}).error.startswith("invalid_input: INPUT__0: expected FP32 [N, T, 3], got the shape")


def test_one_feature_needs_no_axis(exported):
    service, x = make_service(exported("one")), exported("one").sequence(5)
    whole = infer(service, inputs={"x": x[None]}).outputs["y"]
    assert (infer(service, inputs={"x": x.reshape(1, 5)}).outputs["y"] == whole).all()


@pytest.mark.parametrize(("limits", "sent"), [({"max_steps": 1}, X), ({"max_instances": 1}, X), ({"max_body": 100}, X)])
def test_a_limit_is_a_413(two, limits, sent):
    found = infer(make_service(two, **limits), True, inputs={"x": sent})
    assert (found.status, found.error[:10]) == (413, "too_large:")


def test_a_token_outside_the_vocabulary_is_its_row_s_error(exported):
    service, x = make_service(exported("words")), np.array([[1, 2], [1, 99]])
    found = infer(service, inputs={"x": x, "session": texts("a", "b")}, sequence_start=True)
    assert found.outputs["status"].tolist() == [200, 422]
    assert infer(service, inputs={"x": x.astype(np.float32)}).status == 422


def test_requests_of_several_protocols_share_a_batch(two, service):
    x = two.sequence(2)
    native = HttpRequest(orjson.dumps({"inputs": x.tolist()}))
    responses = service.frontend.handle_batch([native, request(True, inputs={"x": x[None]}), HttpRequest(b"{"), request(inputs={"y": x})])
    assert [response.status for response in responses] == [200, 200, 400, 400]
    assert [response.content_type for response in responses[:2]] == ["application/json", "application/octet-stream"]


@both_forms
def test_a_missing_measurement_is_not_a_number(two, service, binary):
    x = two.sequence(4)[None].copy()
    x[0, 2, 0] = np.nan
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in x[0]]
    native = answer(service, {"inputs": rows, "session": {"id": "a", "step": 0}})
    found = infer(service, binary, inputs={"x": x}, sequence_id="a", step=0)
    assert found.parameters["replayed"] is True
    assert (found.outputs["y"][0] == as_float32(native, "prediction")).all()
    assert found.outputs["imputed"].tolist() == [1]


def test_what_is_for_the_log_is_not_told(two):
    store = MemoryStore()
    service = make_service(two, store=store)

    def fail(keys):
        raise StoreUnavailable("valkey at 10.0.0.7 does not answer")

    store.get_many = fail
    found = infer(service, inputs={"x": two.sequence(1)[None]}, sequence_id=7)
    assert (found.status, found.error) == (503, "store_unavailable: the session store is unavailable")
    rows = infer(service, inputs={"x": two.sequence(1)[None], "session": texts("a")})
    assert rows.outputs["error"].tolist() == ["store_unavailable: the session store is unavailable"]
