"""Scores of models that predict a distribution: exact, as computed a second time from docs/forecasts.md, whatever happens to the stream."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import ConfigurationError
from handlers.metrics import Telemetry
from tests.conftest import Clock, answer, ask, export_spec, make_service
from tests.contract.test_distributions import X, probabilistic, sampled  # noqa: F401  # a fixture
from tests.support import eager
from tests.support.distribution_models import BELOW, OUTPUTS, PAIR, PREDICTION
from tests.support.requests import act, step

KEPT_VERSIONS = 6


class Offline:
    """One stream's scores: the outputs of the unmodified model over the whole stream, and where what came lies in its distributions.

    `series` are the kind, the columns of the parameters, the column of the prediction and the feature of each.
    """

    def __init__(self, model, series, per_step):
        self.model, self.series, self.per_step = model, series, per_step
        self.inputs, self.expected, self.errors, self.held = [], None, [], 0
        self.cusum, self.drifting, self.drifts = 0.0, False, 0

    def copy(self):
        made = Offline(self.model, self.series, self.per_step)
        made.__dict__.update(self.__dict__, inputs=list(self.inputs), errors=list(self.errors))
        return made

    def step(self, rows):
        known = self.expected
        for row in rows:
            filled = list(row)
            for _, _, prediction, feature in self.series:
                filled[feature] = self.expected[prediction] if row[feature] is None else row[feature]
            self.inputs.append([float(np.float32(value)) for value in filled])
            y = eager.run(self.model, np.array(self.inputs, np.float32)).prediction
            self.expected = (y if y.ndim == 1 else y[-1]).astype(np.float64)
            if known is not None and all(row[feature] is not None for *_, feature in self.series):
                self.score(known, self.inputs[-1])
            known = self.expected if self.per_step else None

    def score(self, y, row):
        unusual, covered = [], True
        for kind, columns, _, feature in self.series:
            below, up_to = (BELOW[kind](y[columns], row[feature], part) for part in (0.0, 1.0))
            nearer = min((below + up_to) / 2, 1 - (below + up_to) / 2)
            unusual.append(-math.log(2 * nearer) if nearer > 0 else math.inf)
            covered &= below < 0.9 and up_to >= 0.1
        self.errors.append([y[prediction] - row[feature] for _, _, prediction, feature in self.series])
        self.held += covered
        self.cusum = max(0.0, self.cusum + min(float(np.mean(unusual)), 8.0) - 1.5)
        if self.cusum > 30 and not self.drifting:
            self.drifting, self.drifts = True, self.drifts + 1
        elif self.cusum <= 1:
            self.drifting = False
        self.cusum = min(self.cusum, 60.0)

    def scores(self):
        if not self.errors:
            return {"steps": 0, "drift": False, "drifts": 0}
        return {
            "steps": len(self.errors),
            "mae": pytest.approx(np.abs(self.errors).mean(axis=0).tolist(), rel=1e-4, abs=1e-4),
            "bias": pytest.approx(np.mean(self.errors, axis=0).tolist(), rel=1e-4, abs=1e-4),
            "coverage": {"80": pytest.approx(100 * self.held / len(self.errors))},
            "drift": self.drifting,
            "drifts": self.drifts,
        }


@pytest.fixture(scope="module", params=[*OUTPUTS, "pair"])
def case(request, probabilistic, tmp_path_factory):  # noqa: F811
    """A model, its offline double, and rows to stream."""
    kind, random = request.param, np.random.default_rng(5)
    if kind == "pair":  # load is the second feature and the first prediction
        model = export_spec(tmp_path_factory.mktemp("pair"), "pair", PAIR)
        offline = Offline(model.model, [("normal", [0, 1], 0, 1), ("poisson", [2], 2, 0)], per_step=True)
        return model, offline, np.stack([random.poisson(5, 300), random.normal(5, 2, 300), np.arange(300) % 5], 1).tolist()
    model = probabilistic(kind)
    offline = Offline(model.model, [(kind, list(range(len(OUTPUTS[kind]))), PREDICTION[kind], 0)], per_step=False)
    return model, offline, random.poisson(15, (300, 1)).astype(float).tolist()


def scores(service, id="a"):
    return answer(service, act(id, "describe"))["session"]["scores"]


OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["step", "step", "what-if"]), st.integers(1, 3), st.booleans()),
    st.tuples(st.sampled_from(["retry", "fork", "rewind"]), st.integers(1, KEPT_VERSIONS - 1), st.just(False)),
)


@settings(max_examples=6)
@given(st.lists(OPERATIONS, min_size=10, max_size=25), st.integers(0, 9))
def test_whatever_happens_to_a_stream_its_scores_are_those_computed_offline(case, operations, seed):
    model, offline, source = case
    offline = offline.copy()
    random, service, id, kept, last, forks = np.random.default_rng(seed), make_service(model, keep_versions=KEPT_VERSIONS), "a", [], None, 0

    def move(count, holes, commit=True):
        nonlocal offline, last
        at, before = len(offline.inputs), offline.copy()
        rows = [list(row) for row in source[at : at + count]]
        for row in rows if holes and offline.expected is not None else ():
            if random.random() < 0.5:
                row[offline.series[0][3]] = None
        last = {"inputs": rows, "session": {"id": id, "step": at}, "commit": commit}
        answer(service, last)
        offline.step(rows)
        if commit:
            kept.append(before)
        else:
            offline, last = before, None

    move(2, False)
    for kind, amount, holes in operations:
        if kind in ("step", "what-if"):
            move(amount, holes, kind == "step")
        elif kind == "fork":
            forks += 1
            answer(service, act(id, "fork", to=f"f{forks}"))
            id, kept, last = f"f{forks}", [], None
        elif kind == "rewind" and amount <= min(len(kept), KEPT_VERSIONS):
            offline, kept, last = kept[-amount], kept[:-amount], None
            answer(service, {"session": {"id": id, "action": "rewind", "step": len(offline.inputs)}})
        elif kind == "retry" and last is not None:
            [(status, reply)] = ask(service, last)
            assert (status, reply["session"]["replayed"]) == (200, True)
        assert scores(service, id) == offline.scores()


def test_a_retry_with_sampled_paths_is_equal_to_the_digit_and_scores_once(case):
    model, _, source = case
    service, future = make_service(model), {"future": [[row[2]] for row in source[9:13]]} if len(source[0]) > 1 else {}
    x = np.array(source, np.float32)
    answer(service, step("a", 0, x[:3]))
    request = sampled(3, x[3:4], paths=40, **future)
    first = answer(service, request)
    before = scores(service)
    assert before["steps"] == (3 if len(source[0]) > 1 else 1)
    for _ in range(2):
        again = answer(service, request)
        assert again["session"].pop("replayed") is True
        assert again == {**first, "session": {name: value for name, value in first["session"].items() if name != "replayed"}}
    assert scores(service) == before


def test_a_session_that_was_closed_begins_to_count_anew(probabilistic):  # noqa: F811
    clock = Clock()
    service = make_service(probabilistic("normal"), clock=clock, session_ttl=600.0, tombstone_ttl=60.0)
    for at in range(3):
        answer(service, step("a", at, X[at : at + 1]))
    assert scores(service)["steps"] == 2
    answer(service, act("a", "close"))
    clock.now += 100
    answer(service, step("a", 0, X[:1]))
    assert scores(service) == {"steps": 0, "drift": False, "drifts": 0}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_stream_that_the_model_knows_does_not_drift_and_a_change_of_level_is_found(probabilistic, kind):  # noqa: F811
    """What comes is what the model itself draws: 80 % of it lies within the intervals, or more of counts."""
    model, telemetry, x = probabilistic(kind), Telemetry(), X[:1]
    service = make_service(model, telemetry=telemetry)
    for at in range(400):
        x = np.array(answer(service, step("a", at, x, horizon=1, paths=1, **{"return": ["samples"]}))["samples"][0])
    found = scores(service)
    assert (found["steps"], found["drifts"]) == (399, 0)
    assert 74 <= found["coverage"]["80"] <= (86 if kind in ("normal", "studentt", "quantiles") else 95)
    for at in range(400, 460):
        answer(service, step("a", at, np.array([[500.0 if at % 2 else 0.0]])))
    found = scores(service)
    assert (found["drift"], found["drifts"]) == (True, 1)
    counted = {sample.name: sample.value for sample in telemetry.take()}
    assert counted["cellstate_drifts_total"] == 1
    assert counted["cellstate_predictions_scored_total"] == found["steps"]


def test_a_calibration_gives_what_mase_is_relative_to(probabilistic):  # noqa: F811
    plain = probabilistic("quantiles")
    model = replace(plain, signature=replace(plain.signature, intervals={"series": "a.csv", "season": 7, "naive": [2.0]}))
    service = make_service(model)
    for at in range(3):
        reply = answer(service, step("a", at, X[at : at + 1], horizon=2, levels=[80]))
    assert "intervals" in reply
    found = scores(service)
    assert found["mase"] == [found["mae"][0] / 2]
    broken = replace(plain, signature=replace(plain.signature, intervals={"naive": [1.0, 2.0]}))
    with pytest.raises(ConfigurationError, match=r"intervals\.naive: expected an error for each distribution"):
        make_service(broken)


def test_outputs_that_are_no_distribution_are_not_scored(probabilistic, monkeypatch):  # noqa: F811
    backend = probabilistic("normal").backend("onnxruntime")
    run = backend.run

    def without_deviation(x, states, want_output):
        given = run(x, states, want_output)
        return given._replace(y=given.y * np.array([1, 0], np.float32))

    monkeypatch.setattr(backend, "run", without_deviation)
    service = make_service(probabilistic("normal"))
    for at in range(3):
        answer(service, step("a", at, X[at : at + 1]))
    assert scores(service)["steps"] == 0
