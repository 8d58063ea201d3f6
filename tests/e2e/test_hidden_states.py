"""What an LSTM user wants to see proven: which hidden state is which, in the shapes of `torch.nn.LSTM`, through HTTP."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from host.torchserve.launcher import TorchServe
from tests.support.http_client import Connect
from tests.support.served_models import Model, assert_close

pytestmark = pytest.mark.e2e
EVERYTHING = ["prediction", "output", "h_n", "c_n"]
STEPS = 24
Served = Callable[[str], tuple[Model, list[Any], dict[str, np.ndarray]]]


@pytest.fixture
def answered(either: TorchServe, zoo: dict[str, Model], connect: Connect) -> Served:
    """One window's answer with everything in it, as float32 arrays: model name -> model, inputs, answer."""

    def ask(name: str) -> tuple[Model, list[Any], dict[str, np.ndarray]]:
        inputs = zoo[name].inputs(STEPS, seed=91)
        answer = connect(either, name).ask(inputs=inputs, **{"return": EVERYTHING})
        return zoo[name], inputs, {key: np.asarray(answer[key], np.float32) for key in EVERYTHING}

    return ask


@pytest.mark.parametrize(
    ("name", "output", "h_n", "c_n"),
    [
        ("two", (STEPS, 16), (2, 16), (2, 16)),
        ("both-ways", (STEPS, 32), (4, 16), (4, 16)),
        ("projected", (STEPS, 5), (2, 5), (2, 16)),
        ("words", (STEPS, 16), (1, 16), (1, 16)),
    ],
)
def test_everything_has_the_shape_and_the_values_of_the_eager_lstm(
    answered: Served, name: str, output: tuple[int, ...], h_n: tuple[int, ...], c_n: tuple[int, ...]
) -> None:
    model, inputs, answer = answered(name)
    eager = model.run(inputs)
    assert (eager.output.shape, eager.h_n.shape, eager.c_n.shape) == (output, h_n, c_n)
    for field in ("output", "h_n", "c_n"):
        assert_close(answer[field], getattr(eager, field), field)
    assert_close(answer["prediction"], model.whole(inputs), "prediction, against the model's own forward")


def test_one_layer_ends_in_its_only_hidden_state(served: TorchServe, zoo: dict[str, Model], connect: Connect) -> None:
    answer = connect(served, "one").ask(inputs=zoo["one"].inputs(STEPS, seed=92), **{"return": EVERYTHING})
    assert np.shape(answer["h_n"]) == (1, 16)
    assert answer["output"][-1] == answer["h_n"][0]


def test_two_layers_end_in_the_last_hidden_state_and_the_first_is_a_layer_of_its_own(answered: Served) -> None:
    model, inputs, answer = answered("two")
    assert_close(answer["output"][-1], answer["h_n"][1], "output[:, -1] against h_n[1]")
    assert np.abs(answer["output"] - answer["h_n"][0]).max(axis=-1).min() > 0.01, "h_n[0] is found in output"
    assert_close(answer["h_n"][0], first_layer(model, inputs), "h_n[0] against the first layer run alone")


def first_layer(model: Model, inputs: list[Any]) -> np.ndarray:
    """The first layer's last hidden state `[H]`, from an LSTM of one layer with its weights."""
    whole = model.module.lstm
    alone = nn.LSTM(whole.input_size, whole.hidden_size, batch_first=True)
    alone.load_state_dict({name: value for name, value in whole.state_dict().items() if name.endswith("_l0")})
    with torch.no_grad():
        _, (h_n, _) = alone((torch.tensor([inputs]) - model.module.mean) / model.module.std)
    return h_n[0, 0].numpy()


def test_the_head_on_the_last_hidden_state_is_the_prediction(answered: Served) -> None:
    for name in ("two", "projected"):
        model, _, answer = answered(name)
        with torch.no_grad():
            y = model.module.head(torch.from_numpy(answer["h_n"][-1])) * model.module.output_std + model.module.output_mean
        assert_close(answer["prediction"], y.numpy(), f"{name}: the linear head on h_n[-1]")


def test_the_first_layer_s_hidden_state_feeds_another_layer_as_in_eager(answered: Served) -> None:
    model, inputs, answer = answered("two")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(93)
        other = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        served, eager = (other(torch.from_numpy(h_n[0])).numpy() for h_n in (answer["h_n"], model.run(inputs).h_n))
    assert_close(served, eager, "another layer on h_n[0]")


def test_with_projection_the_hidden_state_is_projected_and_the_cell_state_is_not(answered: Served) -> None:
    _, _, answer = answered("projected")
    assert answer["h_n"].shape[-1] == answer["output"].shape[-1] == 5
    assert answer["c_n"].shape[-1] == 16
    assert_close(answer["output"][-1], answer["h_n"][-1], "output[:, -1] against h_n[-1]")


def test_two_directions_end_at_opposite_ends_of_the_sequence(answered: Served) -> None:
    _, _, answer = answered("both-ways")
    output, h_n = answer["output"], answer["h_n"]
    assert_close(output[-1, :16], h_n[-2], "the forward half ends at the last step")
    assert_close(output[0, 16:], h_n[-1], "the backward half ends at the first step")
    assert np.abs(output[-1, 16:] - h_n[-1]).max() > 0.01, "the backward half ends at the last step"


@pytest.mark.parametrize("extra", [{"session": {"id": "both", "step": 0}}, {"state": {"h_n": [[0.0] * 16] * 4, "c_n": [[0.0] * 16] * 4}}])
def test_two_directions_cannot_stream_and_say_so(
    either: TorchServe, zoo: dict[str, Model], connect: Connect, extra: dict[str, Any]
) -> None:
    error = connect(either, "both-ways").refusal(422, "invalid_input", inputs=zoo["both-ways"].inputs(3, seed=94), **extra)
    assert "cannot stream" in error["message"]


def test_a_classifier_of_tokens_answers_log_probabilities_from_its_last_hidden_state(answered: Served) -> None:
    model, _, answer = answered("words")
    assert_close(np.exp(answer["prediction"]).sum(), np.float32(1.0), "the sum of the probabilities")
    with torch.no_grad():
        y = torch.log_softmax(model.module.head(torch.from_numpy(answer["h_n"][-1])), -1)
    assert_close(answer["prediction"], y.numpy(), "log_softmax of the head on h_n[-1]")
    assert_close(answer["output"][-1], answer["h_n"][0], "output[:, -1] against h_n[0]")


def test_a_token_outside_the_vocabulary_is_refused(either: TorchServe, connect: Connect) -> None:
    for inputs in ([0, 20], [-1], [1.0], [True], ["a"], [[1]], [10**30]):
        connect(either, "words").refusal(422, "invalid_input", inputs=inputs)
