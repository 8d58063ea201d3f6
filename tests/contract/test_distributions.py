"""Models that predict distributions: intervals from sampled paths, seeded so that a repeat is equal to the digit."""

import numpy as np
import pytest

from handlers.protocols.open_inference.metadata import model_metadata
from handlers.stores.memory import MemoryStore
from loadtests.load.answers import Answers
from loadtests.offline import WINDOW, OfflineModel
from tests.conftest import BACKENDS, answer, ask, assert_close, export_spec, make_service, refusal
from tests.support import eager
from tests.support.distribution_models import BELOW, OUTPUTS, PAIR, PREDICTION, distance_from_uniform, shares, spec
from tests.support.open_inference_client import infer
from tests.support.requests import contents, fields, raw, step

KINDS = tuple(OUTPUTS)
HORIZON = 4
X = np.array([[18.0], [25.0], [21.0], [14.0], [30.0]], np.float32)


@pytest.fixture(scope="session")
def probabilistic(tmp_path_factory):
    """`probabilistic(kind)`: a model of that kind of distribution."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = export_spec(tmp_path_factory.mktemp(kind), kind, spec(kind))
        return made[kind]

    return get


@pytest.fixture
def normal(probabilistic):
    return probabilistic("normal")


@pytest.fixture
def service(normal):
    return make_service(normal, keep_versions=5)


def sampled(at=0, x=X, id="a", **more):
    return step(id, at, x, horizon=HORIZON, **{"levels": [80, 95], "return": ["prediction", "samples"]} | more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_prediction_is_the_mean_or_median_and_its_parameters_are_told(probabilistic, kind, backend):
    model = probabilistic(kind)
    reply = answer(make_service(model, backend), step("a", 0, X, **{"return": ["prediction", "parameters"]}))
    expected = eager.run(model.model, X).prediction
    assert_close(reply["prediction"], expected[[PREDICTION[kind]]], "prediction")
    assert_close(reply["parameters"], expected, "parameters")


@pytest.mark.parametrize("kind", KINDS)
def test_every_path_is_drawn_from_the_models_own_distributions_along_it(probabilistic, kind):
    model = probabilistic(kind)
    reply = answer(make_service(model), sampled(paths=150))
    samples = np.array(reply["samples"])
    assert samples.shape == (150, HORIZON, 1)
    found = shares(model.model, kind, X, samples[..., 0], np.random.default_rng(0))
    assert distance_from_uniform(found) < 1.95
    for one in range(HORIZON - 1):
        assert abs(np.corrcoef(found[:, one], found[:, one + 1])[0, 1]) < 3.3 / np.sqrt(150), "steps are drawn independently"


@pytest.mark.parametrize("kind", KINDS)
def test_the_forecast_is_rolled_out_on_the_predictions_and_levels_do_not_change_it(probabilistic, kind):
    model, column = probabilistic(kind), PREDICTION[kind]
    service, x = make_service(model), X
    reply = answer(service, sampled())
    for found in reply["forecast"]:
        expected = eager.run(model.model, x).prediction[[column]]
        assert_close(found, expected, "forecast")
        x = np.concatenate([x, expected[None]])
    assert reply["forecast"][0] == reply["prediction"]
    assert_close(answer(service, step("b", 0, X, horizon=HORIZON))["forecast"], np.array(reply["forecast"]), "forecast")


def test_two_series_are_drawn_each_from_its_own_beside_what_is_known_in_advance(tmp_path):
    """Outputs, predictions and features are in three different orders, and the model predicts at every step."""
    model = export_spec(tmp_path, "pair", PAIR)
    x, future = np.array([[4, 6, 1], [5, 5, 2], [3, 7, 3]], np.float32), np.array([[4], [0], [1], [2]], np.float32)
    request = step("a", 0, x, horizon=HORIZON, future=future.tolist(), levels=[80], paths=120, **{"return": ["prediction", "samples"]})
    reply = answer(make_service(model), request)
    samples, random = np.array(reply["samples"]), np.random.default_rng(0)
    assert samples.shape == (120, HORIZON, 2)
    assert np.shape(reply["prediction"]) == (3, 2)
    assert np.shape(reply["intervals"]["80"]["lower"]) == np.shape(reply["forecast"]) == (HORIZON, 2)
    found = np.empty(samples.shape)
    for path, values in enumerate(samples):
        fed = np.column_stack([values[:, 1], values[:, 0], future[:, 0]]).astype(np.float32)
        for at, (load, calls) in enumerate(values):
            mean, deviation, rate = eager.run(model.model, np.concatenate([x, fed[:at]])).prediction[-1].astype(np.float64)
            found[path, at] = BELOW["normal"]((mean, deviation), load, 0), BELOW["poisson"]((rate,), calls, random.random())
    assert distance_from_uniform(found[..., 0]) < 1.95
    assert distance_from_uniform(found[..., 1]) < 1.95
    for values in (found[..., 0], found[..., 1]):
        for one in range(HORIZON - 1):
            assert abs(np.corrcoef(values[:, one], values[:, one + 1])[0, 1]) < 3.3 / np.sqrt(120)


def quantile(ordered, share):
    """The share of N + 1 by hand: linear between the k-th and the next value, the outermost beyond."""
    place = share * (len(ordered) + 1)
    k = int(np.clip(np.floor(place), 1, len(ordered) - 1))
    return ordered[k - 1] + np.clip(place - k, 0, 1) * (ordered[k] - ordered[k - 1])


@pytest.mark.parametrize("paths", [1, 2, 7, 200])
def test_intervals_are_quantiles_of_the_paths(service, paths):
    reply = answer(service, sampled(paths=paths, levels=[1, 50, 80, 99]))
    ordered = np.sort(np.array(reply["samples"]), axis=0)
    assert len(ordered) == paths
    for level, bounds in reply["intervals"].items():
        tail = (1 - int(level) / 100) / 2
        for side, share in (("lower", tail), ("upper", 1 - tail)):
            expected = quantile(np.concatenate([ordered, ordered]) if paths == 1 else ordered, share)
            assert_close(bounds[side], expected, f"{level} {side}", 1e-6)


def test_200_paths_are_drawn_where_the_request_does_not_say_how_many(service):
    assert len(answer(service, sampled())["samples"]) == 200


def test_samples_and_levels_are_each_for_themselves(service):
    whole = answer(service, sampled(commit=False))
    assert "samples" not in answer(service, sampled(commit=False, **{"return": ["prediction"]}))
    only = step("a", 0, X, horizon=HORIZON, commit=False, **{"return": ["samples"]})
    assert {"forecast", "samples"} < answer(service, only).keys()
    assert "intervals" not in answer(service, only)
    assert "intervals" in whole


class TestRepeats:
    """The same request at the same position of a session draws the same values."""

    def test_a_retry_is_answered_byte_for_byte(self, normal):
        store = MemoryStore()
        service = make_service(normal, store=store)
        first = raw(service, sampled())
        before = contents(store)
        again = first.replace(b'"replayed":false', b'"replayed":true')
        assert raw(service, sampled()) == again
        assert raw(make_service(normal, store=store), sampled()) == again, "another server on the same store"
        assert contents(store) == before

    def test_a_what_if_again_and_the_step_itself(self, service):
        what_if = raw(service, sampled(commit=False))
        assert raw(service, sampled(commit=False)) == what_if
        assert fields(raw(service, sampled())) == fields(what_if)

    def test_a_step_after_a_rewind_and_the_first_time(self, service):
        answer(service, step("a", 0, X))
        first = answer(service, sampled(5, X[:1]))
        answer(service, {"session": {"id": "a", "action": "rewind", "step": 5}})
        assert answer(service, sampled(5, X[:1]))["samples"] == first["samples"]

    def test_a_window_without_a_session(self, service):
        window = {"inputs": X.tolist(), "horizon": HORIZON, "levels": [80], "return": ["samples"]}
        assert raw(service, window) == raw(service, window)

    def test_other_sessions_positions_and_requests_draw_others(self, service):
        replies = [
            answer(service, sampled(commit=False)),
            answer(service, sampled(id="b", commit=False)),
            answer(service, sampled(x=X[:4], commit=False)),
            answer(service, sampled(levels=[80], commit=False)),
        ]
        answer(service, sampled(x=X[:1]))
        replies.append(answer(service, sampled(1, commit=False)))
        drawn = [np.array(reply["samples"])[:, 0, 0] - reply["prediction"][0] for reply in replies]
        for one in range(len(drawn)):
            for other in range(one):
                assert abs(np.corrcoef(drawn[one], drawn[other])[0, 1]) < 0.3

    def test_another_number_of_paths_is_another_request(self, service):
        answer(service, sampled())
        assert refusal(service, sampled(paths=100))[1] == "session_exists"


@pytest.mark.parametrize("max_batch", [1, 16, 300, 4096])
def test_the_paths_of_all_rows_share_batches_and_nothing_of_one_row_reaches_another(probabilistic, max_batch):
    model = probabilistic("studentt")
    requests = [
        sampled(id="a", paths=20),
        step("b", 0, X[:3]),
        sampled(id="c", x=X[:2], paths=3, levels=[50]) | {"horizon": 2},
        step("d", 0, X[:1], horizon=6),
        sampled(id="e", paths=40) | {"horizon": 6},
        {"inputs": [[None]], "session": {"id": "f", "step": 0}},
    ]
    together = ask(make_service(model, max_batch=max_batch), *requests)
    assert [status for status, _ in together] == [200] * 5 + [422]
    for request, (_, reply) in zip(requests[:-1], together, strict=False):
        alone = answer(make_service(model), request)
        for name in ("prediction", "forecast", "samples"):
            assert (name in reply) == (name in alone)
            if name in alone:
                assert_close(reply[name], alone[name], name)


def test_a_batch_of_paths_is_one_run_a_step(normal, monkeypatch):
    """21 lines of one row, and 6 of another that is done earlier."""
    backend, shapes = normal.backend("onnxruntime"), []
    run = backend.run

    def watched(x, states, want_output):
        shapes.append(x.shape)
        return run(x, states, want_output)

    monkeypatch.setattr(backend, "run", watched)
    ask(make_service(normal), sampled(paths=20), sampled(id="b", paths=5) | {"horizon": 2})
    assert shapes[1:] == [(27, 1, 1), (21, 1, 1), (21, 1, 1)]


def test_what_is_missing_is_the_prediction_and_not_drawn(normal):
    reply = answer(make_service(normal), {"inputs": [*X.tolist(), [None]], "session": {"id": "a", "step": 0}})
    expected = eager.run(normal.model, X).prediction[:1]
    assert_close(reply["prediction"], eager.run(normal.model, np.concatenate([X, expected[None]])).prediction[:1], "prediction")


@pytest.mark.parametrize(
    ("change", "expected", "message"),
    [
        ({"horizon": 0, "levels": [80], "return": ["prediction"]}, 422, "levels: go with a horizon"),
        ({"horizon": 0, "levels": None}, 422, "samples: go with a horizon"),
        ({"paths": 0}, 422, "paths: expected at least 1, got 0"),
        ({"paths": -1}, 422, "paths: expected 0 to"),
        ({"paths": 2.5}, 422, "paths: expected an integer"),
        ({"paths": 501}, 413, "paths: 501, at most 500 (max_paths)"),
        ({"paths": 10, "levels": None, "return": ["prediction"]}, 422, 'paths: go with levels, or with "samples" in return'),
        ({"return": ["paths"]}, 422, "known: prediction, parameters, samples"),
    ],
)
def test_what_is_wrong_with_paths_and_samples(normal, change, expected, message):
    request = {name: value for name, value in (sampled() | change).items() if value is not None}
    status, _, error = refusal(make_service(normal, max_paths=500), request)
    assert (status, message in error["message"]) == (expected, True), error["message"]


def test_fewer_paths_are_drawn_where_the_settings_allow_no_more(normal):
    assert len(answer(make_service(normal, max_paths=50), sampled())["samples"]) == 50


def test_a_model_of_points_has_no_paths(exported):
    service, x = make_service(exported("one")), [[1.0]]
    assert "exported without --distribution" in refusal(service, {"inputs": x, "horizon": 2, "paths": 10})[2]["message"]
    assert "unknown 'samples'" in refusal(service, {"inputs": x, "horizon": 2, "return": ["samples"]})[2]["message"]


@pytest.mark.parametrize("binary", [True, False])
def test_the_open_inference_protocol_has_samples_and_parameters(normal, binary):
    outputs = ["y", "forecast", "samples", "parameters", "lower", "upper"]
    found = infer(
        make_service(normal), binary, outputs=outputs, inputs={"x": X[None]}, sequence_id="a", step=0, horizon=HORIZON, levels="80", paths=9
    )
    assert found.outputs["samples"].shape == (1, 9, HORIZON, 1)
    expected = eager.run(normal.model, X).prediction
    assert_close(found.outputs["parameters"], expected[None], "parameters")
    assert_close(found.outputs["y"], expected[None, :1], "y")
    lower, upper = quantile(np.sort(found.outputs["samples"][0], axis=0), 0.1), quantile(np.sort(found.outputs["samples"][0], axis=0), 0.9)
    assert_close(found.outputs["lower"][0, 0], lower, "lower")
    assert_close(found.outputs["upper"][0, 0], upper, "upper")
    assert {"samples", "parameters", "lower"} < {
        tensor["name"] for tensor in model_metadata(normal.signature, ["1.0"], "onnxruntime")["outputs"]
    }


def test_samples_of_a_model_of_points_are_no_output(exported):
    found = infer(make_service(exported("one")), outputs=["samples"], inputs={"x": X[None]}, horizon=2)
    assert (found.status, "outputs: expected one of" in found.error) == (422, True)


def test_load_tests_expect_the_predictions(normal):
    model = OfflineModel(normal.built.archive)
    answers = Answers.compute(model)
    service = make_service(normal)
    reply = answer(service, {"inputs": answers.x[0, :WINDOW].tolist(), "horizon": answers.forecast.shape[1]})
    assert_close(reply["prediction"], answers.window[0], "window")
    assert_close(reply["forecast"], answers.forecast[0], "forecast")


def test_a_reply_that_is_too_large_is_refused_and_nothing_applied(normal):
    service = make_service(normal, max_reply=10_000)
    assert refusal(service, sampled(paths=1_000))[:2] == (413, "too_large")
    answer(service, sampled(paths=10))


def test_parameters_that_are_none_are_refused_and_nothing_is_applied(normal, monkeypatch):
    """As where softplus underflows: the deviation is 0 from here on."""
    backend = normal.backend("onnxruntime")
    run = backend.run

    def without_deviation(x, states, want_output):
        given = run(x, states, want_output)
        return given._replace(y=given.y * np.array([1, 0], np.float32))

    monkeypatch.setattr(backend, "run", without_deviation)
    service = make_service(normal)
    status, code, error = refusal(service, sampled())
    assert (status, code) == (422, "non_finite_result")
    assert "distribution" in error["message"]
    assert answer(service, step("a", 0, X))["session"]["step"] == 5


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_the_open_inference_protocol_has_the_same_paths_and_parameters(service, binary):
    native = answer(service, sampled(paths=30, **{"return": ["prediction", "parameters", "samples"]}))
    outputs = ["y", "forecast", "parameters", "samples", "lower", "upper"]
    more = {"outputs": outputs, "horizon": HORIZON, "levels": "80,95", "paths": 30}
    found = infer(service, binary, inputs={"x": X[None]}, sequence_id="a", step=0, **more)
    assert found.parameters["replayed"] is True
    for name in ("parameters", "samples", "forecast"):
        assert (found.outputs[name][0] == np.array(native[name], np.float32)).all(), name
    for side in ("lower", "upper"):
        assert (found.outputs[side][0, 1] == np.array(native["intervals"]["95"][side], np.float32)).all()
    alone = infer(service, binary, inputs={"x": X[None]}, outputs=["samples"], horizon=HORIZON, paths=7)
    assert alone.outputs["samples"].shape == (1, 7, HORIZON, 1)


def test_a_model_of_points_has_no_such_tensors(two):
    found = infer(make_service(two), inputs={"x": two.sequence(2)[None]}, outputs=["samples"], horizon=1)
    assert (found.status, found.error[:32]) == (422, "invalid_input: outputs: expected")
