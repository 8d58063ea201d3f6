"""Missing observations: a stream with holes is the model fed with its own predictions, however it is cut, retried, undone or copied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.metrics import Telemetry
from handlers.stores.memory import MemoryStore
from tests.conftest import BACKENDS, answer, ask, assert_close, make_service, refusal
from tests.support import eager
from tests.support.open_inference_client import infer, texts
from tests.support.requests import act, contents, raw, step

MODELS = ("two", "one", "step", "projected", "learned")
lengths = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def holed(x, missing):
    """The inputs with NaN in the column that feeds back, in each of the steps; JSON has it as null."""
    x = x.copy()
    x[list(missing), 0] = np.nan
    return x


def filled(model, x):
    """The offline reference: from the first step on, each hole takes the whole model's prediction for it."""
    x = x.copy()
    for t in np.flatnonzero(np.isnan(x[:, 0])):
        x[t, 0] = eager.run(model, x[:t]).prediction.ravel()[-1]
    return x


def pieces(x, lengths):
    return np.split(x, np.cumsum(lengths)[:-1])


def rows(x):
    return [[None if np.isnan(value) else float(value) for value in row] for row in x]


def put(id, at, x, **more):
    return step(id, at, np.zeros((1, 1)), **more) | {"inputs": rows(x)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_cut_of_a_stream_with_holes_is_the_offline_model_fed_with_its_own_predictions(exported, name, backend):
    model = exported(name)
    service = make_service(model, backend)

    @settings(max_examples=8)
    @given(lengths, st.data())
    def any_cut(lengths, data):
        total = sum(lengths)
        missing = data.draw(st.sets(st.integers(1, total - 1))) if total > 1 else set()
        x = holed(model.sequence(total, data.draw(st.integers(0, 9))), missing)
        expected, at, id = eager.run(model.model, filled(model.model, x)), 0, None
        for piece in pieces(x, lengths):
            reply = answer(service, put(id, at, piece, **{"return": ["prediction", "output", "h_n", "c_n"]}))
            at, id = at + len(piece), reply["session"]["id"]
            assert reply.get("imputed", 0) == np.isnan(piece).sum()
            assert_close(reply["output"], expected.output[at - len(piece) : at], "output")
        last = reply["prediction"][-1] if name == "step" else reply["prediction"]
        assert_close(last, expected.prediction[-1] if name == "step" else expected.prediction, "prediction")
        assert_close(reply["h_n"], expected.h_n, "h_n")
        assert_close(reply["c_n"], expected.c_n, "c_n")

    any_cut()


def test_neighbours_with_and_without_holes_share_a_batch(two):
    service = make_service(two)
    streams = [holed(two.sequence(6, seed), missing) for seed, missing in enumerate([(), (2, 3), (5,), (1, 3, 5)])]
    replies = [reply for _, reply in ask(service, *[put(f"s{k}", 0, x) for k, x in enumerate(streams)])]
    for x, reply in zip(streams, replies, strict=True):
        assert_close(reply["prediction"], eager.run(two.model, filled(two.model, x)).prediction, "prediction")


def test_a_forecast_after_a_hole_starts_from_the_imputed_state(two):
    x = two.sequence(9)
    request = put("a", 0, holed(x[:5], {3, 4}), horizon=4, future=x[5:, 1:].tolist())
    expected = eager.rollout(two.model, filled(two.model, holed(x[:5], {3, 4})), 4, x[5:, 1:])
    assert_close(answer(make_service(two), request)["forecast"], expected, "forecast")


def test_a_window_without_a_session_may_have_holes_after_its_first_step(two):
    service, x = make_service(two), holed(two.sequence(5), {2, 4})
    reply = answer(service, {"inputs": rows(x)})
    assert reply["imputed"] == 2
    assert_close(reply["prediction"], eager.run(two.model, filled(two.model, x)).prediction, "prediction")


@pytest.fixture
def holes(two):
    """Six steps, of which the third and the fifth were not measured."""
    return holed(two.sequence(6), {2, 4})


def expect(two, reply, x):
    assert_close(reply["prediction"], eager.run(two.model, filled(two.model, np.asarray(x))).prediction, "prediction")


def test_a_retry_is_answered_byte_for_byte(two, holes):
    service = make_service(two)
    answer(service, put("a", 0, holes[:2]))
    first, again = (raw(service, put("a", 2, holes[2:])) for _ in range(2))
    assert again == first.replace(b'"replayed":false', b'"replayed":true')
    assert b'"imputed":2' in first
    assert refusal(service, put("a", 2, filled(two.model, holes)[2:]))[1] == "step_conflict", "null is not its imputed value"


def test_a_what_if_imputes_and_changes_nothing(two, holes):
    store = MemoryStore()
    service = make_service(two, store=store)
    answer(service, put("a", 0, holes[:2]))
    before = contents(store)
    reply = answer(service, put("a", 2, holes[2:], commit=False))
    assert contents(store) == before
    assert reply["imputed"] == 2
    expect(two, reply, holes)
    assert answer(service, put("a", 2, holes[2:]))["prediction"] == reply["prediction"]


def test_a_fork_imputes_what_its_source_would(two, holes):
    service = make_service(two)
    answer(service, put("a", 0, holes[:2]))
    answer(service, act("a", "fork", to="b"))
    answer(service, put("a", 2, two.sequence(3, seed=7)))
    expect(two, answer(service, put("b", 2, holes[2:])), holes)


def test_a_fork_in_the_batch_of_its_source_imputes_what_the_source_would(two, holes):
    service = make_service(two)
    replies = ask(service, put("a", 0, holes[:2]), act("a", "fork", to="b"), put("b", 2, holes[2:]))
    expect(two, replies[-1][1], holes)


def test_a_rewind_imputes_what_the_stream_expected_there(two, holes):
    service = make_service(two, keep_versions=3)
    answer(service, put("a", 0, holes[:2]))
    answer(service, put("a", 2, two.sequence(1, seed=8)))
    answer(service, put("a", 3, two.sequence(1, seed=9)))
    answer(service, {"session": {"id": "a", "action": "rewind", "step": 2}})
    expect(two, answer(service, put("a", 2, holes[2:])), holes)


def test_a_rewind_to_the_start_has_no_prediction_again(two, holes):
    service = make_service(two, keep_versions=1)
    answer(service, put("a", 0, holes[:2]))
    answer(service, {"session": {"id": "a", "action": "rewind", "step": 0}})
    assert "first step" in refusal(service, put("a", 0, holes[2:]))[2]["message"]


def test_a_session_that_is_rewarmed_imputes_with_the_new_models_prediction(exported, holes):
    old, new, store = exported("two"), exported("retrained"), MemoryStore()
    answer(make_service(old, store=store, rewarm_steps=8), put("a", 0, holes[:3]))
    reply = answer(make_service(new, store=store, rewarm_steps=8), put("a", 3, holes[4:]))
    kept = filled(old.model, holes[:3])  # a session keeps its inputs as they ran
    assert "rewarmed" in reply["session"], (reply, old.signature.digest, new.signature.digest)
    assert_close(reply["prediction"], eager.run(new.model, filled(new.model, np.vstack([kept, holes[4:]]))).prediction, "prediction")


class TestRefusals:
    def test_a_stream_cannot_begin_with_a_hole(self, two):
        service, x = make_service(two), holed(two.sequence(3), {0})
        for request in ({"inputs": rows(x)}, put("a", 0, x)):
            status, code, error = refusal(service, request)
            assert (status, code) == (422, "invalid_input")
            assert "begin with a measurement" in error["message"]

    def test_a_state_in_the_clients_hand_carries_no_prediction(self, two):
        service, x = make_service(two), two.sequence(3)
        state = answer(service, {"inputs": rows(x), "return": ["state"]})["state"]
        assert refusal(service, {"inputs": rows(holed(x, {0})), "state": state})[0] == 422
        answer(service, {"inputs": rows(holed(x, {1})), "state": state})

    def test_only_what_feeds_back_may_be_missing(self, two):
        service, x = make_service(two), rows(two.sequence(3))
        x[1][2] = None
        status, code, error = refusal(service, {"inputs": x})
        assert (status, code) == (422, "invalid_input")
        assert "inputs[1][2]: expected a number, got null" in error["message"]

    def test_more_in_a_row_than_allowed(self, two):
        service, x = make_service(two, max_imputed=3), two.sequence(6)
        answer(service, put("a", 0, holed(x[:3], {1, 2})))
        status, code, error = refusal(service, put("a", 3, holed(x[3:5], {0, 1})))
        assert (status, code) == (422, "invalid_input")
        assert "4 steps in a row" in error["message"]
        assert "at most 3" in error["message"]
        answer(service, put("a", 3, holed(x[3:4], {0})))
        assert refusal(service, put("a", 4, holed(x[4:5], {0})))[0] == 422
        answer(service, put("a", 4, x[4:5]))
        answer(service, put("a", 5, holed(x[5:6], {0})))

    def test_none_at_all_where_the_operator_says_so(self, two):
        assert refusal(make_service(two, max_imputed=0), {"inputs": rows(holed(two.sequence(3), {1}))})[0] == 422

    def test_a_model_that_sees_whole_sequences_cannot_predict_what_is_missing(self, exported):
        model = exported("bidirectional")
        error = refusal(make_service(model), {"inputs": rows(holed(model.sequence(4), {2}))})[2]
        assert "step by step" in error["message"]

    def test_what_fails_is_the_rows_own(self, two):
        x = two.sequence(3)
        replies = ask(make_service(two), put("a", 0, x), put("b", 0, holed(x, {0})), put("c", 0, holed(x, {1})))
        assert [status for status, _ in replies] == [200, 422, 200]


def test_imputed_values_are_counted_once(two, holes):
    telemetry = Telemetry()
    service = make_service(two, telemetry=telemetry)
    for _ in range(2):
        answer(service, put("a", 0, holes))
    answer(service, put("a", 6, holes, commit=False))
    assert next(sample.value for sample in telemetry.take() if sample.name == "cellstate_values_imputed_total") == 2


@pytest.mark.parametrize("body", ["json", "windows"])
def test_a_bare_list_may_have_holes(exported, body):
    model = exported("one")
    x = model.sequence(4)
    inputs = [float(x[0, 0]), None, float(x[2, 0]), None]
    expected = eager.run(model.model, filled(model.model, holed(x, {1, 3}))).prediction
    reply = answer(make_service(model), {"inputs": inputs} if body == "json" else {"instances": [inputs]})
    assert_close(reply["prediction"] if body == "json" else reply["predictions"][0], expected, "prediction")


@pytest.mark.parametrize("binary", [True, False])
class TestOpenInference:
    def test_windows_may_have_holes(self, two, binary):
        x = np.stack([holed(two.sequence(4, seed), missing) for seed, missing in enumerate([(), (2, 3), (1,)])])
        found = infer(make_service(two), binary, inputs={"x": x})
        assert found.outputs["imputed"].tolist() == [0, 2, 1]
        for y, window in zip(found.outputs["y"], x, strict=True):
            assert_close(y, eager.run(two.model, filled(two.model, window)).prediction, "y")

    def test_sessions_may_have_holes(self, two, holes, binary):
        service = make_service(two)
        session = {"session": texts("a", "b"), "step": np.array([0, 0])}
        found = infer(service, binary, inputs={"x": np.stack([holes, holed(holes, {0})])} | session)
        assert found.outputs["status"].tolist() == [200, 422]
        assert found.outputs["imputed"].tolist() == [2, 0]
        expect(two, {"prediction": found.outputs["y"][0]}, holes)

    def test_a_sequence_may_have_holes_and_a_retry_hashes_alike(self, two, holes, binary):
        service = make_service(two)
        other = np.where(np.isnan(holes), np.uint32(0xFFC00001).view(np.float32), holes)  # another NaN
        infer(service, binary, inputs={"x": holes[None, :2]}, sequence_id="a", step=0)
        first, again = (infer(service, binary, inputs={"x": x[None, 2:]}, sequence_id="a", step=2) for x in (holes, other))
        assert [reply.parameters["replayed"] for reply in (first, again)] == [False, True]
        assert [reply.outputs["imputed"].tolist() for reply in (first, again)] == [[2], [2]]
        assert (first.outputs["y"] == again.outputs["y"]).all()

    def test_only_what_feeds_back_may_be_missing(self, two, binary):
        x = two.sequence(3)
        x[1, 2] = np.nan
        found = infer(make_service(two), binary, inputs={"x": x[None]})
        assert found.status == 422
        assert "x[0][1][2]: expected a number, got NaN" in found.error
