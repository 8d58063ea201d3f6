"""One request, each model, both backends: what is served is what PyTorch says, and `h_n` is what it is."""

import numpy as np
import pytest
import torch

from tests.conftest import BACKENDS, MODELS, answer, ask, assert_close, make_service
from tests.support import eager

ALL = ["prediction", "output", "h_n", "c_n"]
T = 9

pytestmark = pytest.mark.parametrize("backend", BACKENDS)
every_model = pytest.mark.parametrize("name", MODELS)


def sizes(model):
    """L*D, D, P, H."""
    lstm = model.lstm
    directions = 2 if lstm.bidirectional else 1
    return lstm.num_layers * directions, directions, lstm.proj_size or lstm.hidden_size, lstm.hidden_size


def serve(exported, name, backend, steps=T):
    """The model, its inputs, and the arrays that were answered."""
    model = exported(name)
    x = model.sequence(steps)
    reply = answer(make_service(model, backend), {"inputs": x.tolist(), "return": ALL})
    return model.model, x, {field: np.array(reply[field], np.float32) for field in ALL}


@every_model
@pytest.mark.parametrize("steps", [1, 2, T, 70])
def test_every_output_is_the_eager_models(exported, name, backend, steps):
    model, x, served = serve(exported, name, backend, steps)
    expected = eager.run(model, x)
    for field in ALL:
        assert_close(served[field], getattr(expected, field), f"{field} of {name}, {steps} steps")


@every_model
def test_shapes_are_those_of_the_words(exported, name, backend):
    model, _, served = serve(exported, name, backend)
    rows, directions, p, h = sizes(model)
    outputs = len(exported(name).signature.outputs)
    assert served["prediction"].shape == ((T, outputs) if name == "step" else (outputs,))
    assert served["output"].shape == (T, directions * p)
    assert served["h_n"].shape == (rows, p)
    assert served["c_n"].shape == (rows, h)


@pytest.mark.parametrize("name", [name for name in MODELS if "bidirectional" not in name])
def test_one_direction_ends_where_the_top_layers_h_n_is_and_no_lower_layer_is_in_output(exported, name, backend):
    _, _, served = serve(exported, name, backend)
    output, h_n = served["output"], served["h_n"]
    assert_close(output[-1], h_n[-1], "output[-1] against h_n[-1]")
    for layer in h_n[:-1]:
        nearest = np.abs(output - layer).max(axis=1).min()
        assert nearest > 1e-3, f"a lower layer's h_n is within {nearest:.1e} of a step of output"


@pytest.mark.parametrize("name", ["bidirectional", "projected-bidirectional"])
def test_two_directions_end_at_both_ends(exported, name, backend):
    model, _, served = serve(exported, name, backend)
    output, h_n, p = served["output"], served["h_n"], sizes(model)[2]
    assert_close(output[-1, :p], h_n[-2], "the forward half, at the last step")
    assert_close(output[0, p:], h_n[-1], "the backward half, at the first step")
    assert np.abs(output[-1, p:] - h_n[-1]).max() > 1e-3, "output at the last step is not the backward half's h_n"


@pytest.mark.parametrize("name", ["two", "one", "projected"])
def test_the_head_on_the_top_h_n_is_the_prediction(exported, name, backend):
    model, _, served = serve(exported, name, backend)
    with torch.no_grad():
        y = model.head(torch.from_numpy(served["h_n"][-1])) * model.output_std + model.output_mean
    assert_close(served["prediction"], y.numpy(), "head(h_n[-1]) against the prediction")


def test_the_classifiers_head_on_h_n_is_its_prediction(exported, backend):
    model, _, served = serve(exported, "words", backend)
    with torch.no_grad():
        y = torch.log_softmax(model.head(torch.from_numpy(served["h_n"][-1])), -1)
    assert_close(served["prediction"], y.numpy(), "log_softmax(head(h_n[-1]))")


def test_the_head_on_each_step_of_output_is_each_prediction(exported, backend):
    model, _, served = serve(exported, "step", backend)
    with torch.no_grad():
        y = model.head(torch.from_numpy(served["output"])) * model.output_std + model.output_mean
    assert_close(served["prediction"], y.numpy(), "head(output[t])")


@every_model
def test_rows_of_any_length_in_a_batch_are_each_row_alone(exported, name, backend):
    model = exported(name)
    rows = [model.sequence(steps, seed) for seed, steps in enumerate([5, 1, 12, 5, 3, 1])]
    wants = [ALL, ["prediction"], ALL, ["h_n"], ["prediction", "c_n"], ["output"]]
    requests = [{"inputs": x.tolist(), "return": want} for x, want in zip(rows, wants, strict=True)]
    for x, want, (status, reply) in zip(rows, wants, ask(make_service(model, backend), *requests), strict=True):
        assert status == 200
        assert set(reply) == {*want, "model"}
        expected = eager.run(model.model, x)
        for field in want:
            assert_close(reply[field], getattr(expected, field), f"{field} of {len(x)} steps in a batch")


def test_a_batch_over_max_batch_is_served_in_parts(two, backend):
    rows = [two.sequence(1 + seed % 4, seed) for seed in range(11)]
    replies = ask(make_service(two, backend, max_batch=3), *({"inputs": x.tolist()} for x in rows))
    for x, (_, reply) in zip(rows, replies, strict=True):
        assert_close(reply["prediction"], eager.run(two.model, x).prediction, f"{len(x)} steps")


@pytest.mark.parametrize("name", ["bidirectional", "projected-bidirectional"])
def test_a_model_that_reads_the_future_forecasts_exactly_or_not_at_all(exported, name, backend):
    """Its state cannot be carried on, so neither can a rollout: the whole grown sequence would have to be run anew."""
    model, x = exported(name), exported(name).sequence(9)
    request = {"inputs": x[:6].tolist(), "horizon": 3, "future": x[6:, 1:].tolist()}
    [(status, reply)] = ask(make_service(model, backend), request)
    if status == 200:
        assert_close(reply["forecast"], eager.rollout(model.model, x[:6], 3, x[6:, 1:]), "forecast")
    else:
        assert (status, reply["error"]["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("name", ["bidirectional", "projected-bidirectional"])
def test_a_model_that_reads_the_future_refuses_sessions_and_states_with_the_measured_reason(exported, name, backend):
    model = exported(name)
    service = make_service(model, backend)
    whole = answer(service, {"inputs": model.sequence(3).tolist(), "return": ["h_n", "c_n", "state"]})
    arrays = {"h_n": whole["h_n"], "c_n": whole["c_n"]}
    for extra in ({"session": "a"}, {"session": {"step": 0}}, {"state": whole["state"]}, {"state": arrays}):
        [(status, reply)] = ask(service, {"inputs": model.sequence(3).tolist()} | extra)
        assert (status, reply["error"]["code"]) == (422, "invalid_input")
        assert f"{name}-1.0 cannot stream (cut at" in reply["error"]["message"]
