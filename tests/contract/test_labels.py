"""A classifier answers the name of the class and the probability of each, in a window, a stream, a repetition, and both protocols."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch

from handlers.protocols.base import HttpRequest
from tests.conftest import answer, ask, assert_close, make_service
from tests.support import eager

RETURNS = {"return": ["label", "probabilities"]}


@pytest.fixture
def words(exported):
    return exported("words")


def expected(model, x):
    """The label and the probabilities, by the unmodified model."""
    y = torch.tensor(eager.run(model.model, x).prediction)
    return model.signature.outputs[int(y.argmax())], torch.softmax(y, -1).numpy()


def test_a_window_and_each_step_of_a_stream_are_answered_as_by_the_model(words):
    service, x = make_service(words), words.sequence(6)
    label, probabilities = expected(words, x)
    found = answer(service, {"inputs": x.tolist(), **RETURNS})
    assert found["label"] == label
    assert_close(found["probabilities"], probabilities, "of the window")
    for n in range(6):
        request = {"inputs": x[n : n + 1].tolist(), "session": {"id": "s", "step": n}, **RETURNS}
        first, again = answer(service, request), answer(service, request)
        label, probabilities = expected(words, x[: n + 1])
        assert (first["label"], again["label"]) == (label, label)
        assert_close(first["probabilities"], probabilities, f"of step {n}")
        assert again["probabilities"] == first["probabilities"]
        assert again["session"]["replayed"]


def test_they_are_outputs_of_the_open_inference_protocol(words):
    x = np.stack([words.sequence(4, seed=seed) for seed in range(3)])
    request = {
        "inputs": [{"name": "x", "datatype": "INT64", "shape": list(x.shape), "data": x.ravel().tolist()}],
        "outputs": [{"name": "label"}, {"name": "probabilities"}],
    }
    [response] = make_service(words).frontend.handle_batch([HttpRequest(orjson.dumps(request), path="/v2/")])
    label, probabilities = orjson.loads(response.body)["outputs"]
    right = [expected(words, row) for row in x]
    assert (label["datatype"], label["shape"], label["data"]) == ("BYTES", [3], [name for name, _ in right])
    assert probabilities["shape"] == [3, len(words.signature.outputs)]
    assert_close(np.reshape(probabilities["data"], (3, -1)), np.stack([row for _, row in right]), "by the tensor")


def test_numbers_that_are_probabilities_already_are_answered_as_they_are(words):
    raw = {**words.signature.raw, "outputs": {**words.signature.raw["outputs"], "example": [0.25, 0.25, 0.5]}}
    service, x = make_service(replace(words, signature=replace(words.signature, raw=raw))), words.sequence(5)
    found = answer(service, {"inputs": x.tolist(), "return": ["prediction", "probabilities"]})
    assert found["probabilities"] == found["prediction"]


def test_a_model_of_no_classes_has_neither(two):
    [(status, reply)] = ask(make_service(two), {"inputs": two.sequence(3).tolist(), **RETURNS})
    assert (status, reply["error"]["code"]) == (422, "invalid_input")
    assert "return: unknown 'label'" in reply["error"]["message"]
