"""The KServe V1 protocol over the service: windows in, predictions out, the native protocol's numbers to the digit."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.protocols.base import KSERVE, HttpRequest
from tests.conftest import ask, make_service
from tests.support.json_strategies import ANYTHING, matrices


def post(service, document):
    [(status, reply)] = ask(service, document)
    return status, reply


@pytest.mark.parametrize("name", ["two", "step", "words", "one", "bidirectional"])
def test_windows_are_predicted_as_natively(exported, name):
    service, x = make_service(exported(name)), [exported(name).sequence(5, seed=i) for i in range(3)]
    status, reply = post(service, {"instances": x})
    assert status == 200
    assert reply == {"predictions": [post(service, {"inputs": window})[1]["prediction"] for window in x]}


def test_windows_of_other_lengths_are_predicted_together(two):
    service, x = make_service(two), [two.sequence(length) for length in (1, 7, 3)]
    assert [len(prediction) for prediction in post(service, {"instances": x})[1]["predictions"]] == [1, 1, 1]


def test_a_model_of_one_feature_takes_flat_windows(exported):
    service = make_service(exported("one"))
    flat, nested = ({"instances": [window]} for window in ([3.0, 3.5], [[3.0], [3.5]]))
    assert post(service, flat) == post(service, nested)


def test_instances_that_are_objects_are_native_requests(two):
    service, x = make_service(two), two.sequence(2)
    status, reply = post(service, {"instances": [{"inputs": x.tolist(), "session": {"id": "a", "step": 0}}]})
    assert (status, reply["predictions"][0]["session"]["step"]) == (200, 2)


@pytest.mark.parametrize(
    ("document", "status", "error"),
    [
        ({"instances": [[[1, 2]]]}, 422, "invalid_input: inputs[0]: expected 3 features, got 2"),
        ({"instances": [[[1, 2, 3]], [[1, 2]]]}, 422, "instances[1]: invalid_input: inputs[0]: expected 3 features"),
        ({"instances": [[[1, 2, 3]], {"inputs": [[1, 2, 3]]}]}, 422, "instances[1]: invalid_input: instance: expected T lists"),
        ({"instances": [1, 2]}, 422, "instances[0]: invalid_input: instance: expected T lists of 3 numbers"),
        ({"instances": [[]]}, 422, "invalid_input: instance: expected T lists"),
        ({"instances": [[[1, 2, 3]]], "signature_name": "a"}, 400, "unknown_field: body: unknown field 'signature_name'"),
        (b'{"instances": [[[1, 2, 3]]', 400, "malformed_json: body: "),
        (b'{"instances": [[[1, 2, 3]]], "instances": 5}', 400, "malformed_json: body: the field 'instances' is given twice in one object"),
        ({"instances": [[[1, 2, 3]]] * 4}, 413, "too_large: instances: 4, at most 3"),
        ({"instances": [[[1, 2, 3]] * 5]}, 413, "too_large: inputs: 5 steps, at most 4"),
        ({"instances": [[[1, 2, 3]], [[1, 2, 1e38]]]}, 422, "instances[1]: invalid_input: inputs[0][2]: 1e+38 is beyond"),
    ],
)
def test_the_first_error_is_the_answer(two, document, status, error):
    service = make_service(two, max_instances=3, max_steps=4)
    found, reply = post(service, document)
    assert list(reply) == ["error"]
    assert (found, reply["error"][: len(error)]) == (status, error)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b'{"instances": []}', 422, "invalid_input: instances: expected a list of at least one window, got an empty list"),
        (b'{"instances": 5}', 422, "invalid_input: instances: expected a list of at least one window, got a number"),
        (b'{"instances"', 400, "malformed_json: body: "),
        (b'["instances"]', 400, "malformed_json: body: expected a JSON object"),
        (b'{"key": "instances"}', 400, "unknown_field: body: unknown field 'key'"),
    ],
)
def test_on_its_own_route_every_error_has_the_protocol_s_form(two, body, status, error):
    [response] = make_service(two).frontend.handle_batch([HttpRequest(body, path="/v1/")])
    assert (response.status, orjson.loads(response.body)["error"][: len(error)]) == (status, error)


@pytest.mark.parametrize("path", ["/v1/", KSERVE])
def test_on_its_own_route_instances_that_are_objects_are_native_requests(two, path):
    [response] = make_service(two).frontend.handle_batch([HttpRequest(b'{"instances": [{"inputs": 5}]}', path=path)])
    assert orjson.loads(response.body)["predictions"][0]["error"]["code"] == "invalid_input"


def test_an_instance_must_hold_what_its_features_may_be(two):
    """An id outside its table, for example, would end the run of the whole batch."""
    limited = replace(two, signature=replace(two.signature, ids={"hour": 24}))
    status, reply = post(make_service(limited), {"instances": [[[1, 23, 3]], [[1, 24, 3]]]})
    assert status == 422
    assert reply["error"].startswith("instances[1]: invalid_input: inputs[0][1]: expected an id from 0 to 23 for hour, got 24")


def test_where_the_version_of_kserve_s_protocol_is_not_known_the_instances_tell_it(two):
    bodies = [orjson.dumps(document) for document in ({"instances": []}, {"inputs": []}, {"inputs": [[1, 2, 3]]}, {})]
    responses = make_service(two).frontend.handle_batch([HttpRequest(body, path=KSERVE) for body in bodies])
    tensors = "expected a list of tensors, objects with name, shape, datatype and data (KServe V1 has instances)"
    assert [orjson.loads(response.body)["error"] for response in responses] == [
        "invalid_input: instances: expected a list of at least one window, got an empty list",
        "invalid_input: inputs: expected at least one tensor",
        f"invalid_input: inputs: {tensors}, got a list of 1",
        f"invalid_input: inputs: {tensors}, got null",
    ]


def test_predictions_that_are_too_large_are_refused(exported):
    service = make_service(exported("step"), max_reply=50)
    status, reply = post(service, {"instances": [exported("step").sequence(9)]})
    assert (status, reply["error"][:17]) == (413, "too_large: reply:")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANYTHING | matrices(3), min_size=1, max_size=3))
def test_any_instances_are_answered_below_500(two, items):
    [response] = make_service(two).frontend.handle_batch([HttpRequest(orjson.dumps({"instances": items}))])
    assert response.status < 500
