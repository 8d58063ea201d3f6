"""Times, missing values and intervals through the Open Inference Protocol: the native protocol's numbers to the digit."""

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import answer, make_service
from tests.contract.test_observations import FLOW, inputs, seen, with_calendar
from tests.contract.test_open_inference import as_float32, both_forms
from tests.support.calibrated import calibrated, write_series
from tests.support.open_inference_client import infer, texts

HOURS = {"hour": {"of": "hour"}}  # of the features flow, hour, rain
HORIZON = 4


@pytest.fixture(scope="module")
def timed(two):
    """The model with a calendar that derives all but what feeds back."""
    return with_calendar(two)


@pytest.fixture(scope="module")
def meter(exported, tmp_path_factory):
    """The model of one feature, with a calendar and intervals."""
    model = exported("one")
    series = write_series(tmp_path_factory.mktemp("series") / "load.csv", model.sequence(400, seed=3))
    model = calibrated(replace(model, signature=replace(model.signature, frequency="1h")), series, HORIZON)
    return replace(model, signature=replace(model.signature, calendar={"gaps": "fill"}))


@pytest.fixture
def service(timed):
    return make_service(timed, keep_versions=3)


def tensors(*hours, missing=()):
    """The tensors of one row: the same observations as `seen` gives."""
    x = np.array([[[np.nan if hour in missing else FLOW[hour]] for hour in hours]], np.float32)
    return {"x": x, "time": texts(*(item["time"] for item in seen(*hours))).reshape(1, -1)}


@both_forms
def test_observations_are_those_of_the_native_protocol(service, binary):
    hours = [0, 1, 2, 5, 6]
    native = answer(service, {"observations": seen(*hours), "session": {"id": "a", "step": 0}, "horizon": 2})
    found = infer(service, binary, inputs=tensors(*hours), sequence_id="a", step=0, horizon=2)
    assert found.parameters == {"sequence_id": "a", "step": 7, "generation": 0, "replayed": True}
    assert (found.outputs["y"][0] == as_float32(native, "prediction")).all()
    assert (found.outputs["forecast"][0] == as_float32(native, "forecast")).all()
    assert found.outputs["times"].tolist() == [native["times"]]
    assert found.outputs["imputed"].tolist() == [native["imputed"]] == [2]


@both_forms
def test_a_missing_observation_is_not_a_number(service, binary):
    found = infer(service, binary, inputs=tensors(0, 1, 2, missing=[1]), sequence_id="a", step=0)
    native = answer(service, {"observations": seen(0, 1, 2, missing=[1]), "session": {"id": "a", "step": 0}})
    assert native["session"]["replayed"] is True
    assert (found.outputs["y"][0] == as_float32(native, "prediction")).all()


def test_inputs_after_observations_go_on_from_their_time(service):
    infer(service, inputs=tensors(0, 1), sequence_id="a", step=0)
    found = infer(service, inputs={"x": inputs([2])[None]}, sequence_id="a", step=2)
    assert found.outputs["times"].tolist() == [[seen(3)[0]["time"]]]


def test_of_many_sessions_a_wrong_time_is_its_row_s_error(service):
    rows = [tensors(0, 1), tensors(0, 1), tensors(0, 1)]
    sent = {name: np.concatenate([row[name] for row in rows]) for name in ("x", "time")}
    sent["time"][1, 1], sent["time"][2, 1] = b"tomorrow", sent["time"][2, 0]
    found = infer(service, True, inputs=sent | {"session": texts("a", "b", "c"), "step": np.zeros(3, np.int64)})
    assert found.outputs["status"].tolist() == [200, 422, 422]
    assert found.outputs["times"].tolist() == [[seen(2)[0]["time"]], [""], [""]]
    late, twice = found.outputs["error"][1:]
    assert late.startswith("invalid_input: time[1][1]: expected a time such as 2018-09-29T23:00:00, got 'tomorrow'")
    assert "was observed already" in twice


def test_columns_that_the_calendar_derives_are_left_out_of_x_and_future(two):
    service = make_service(replace(two, signature=replace(two.signature, frequency="1h", calendar={"derived": HOURS})))
    rain, known = 0.5, [[0.25], [0.75]]
    observations = [item | {"rain": rain} for item in seen(0, 1)]
    native = answer(service, {"observations": observations, "session": {"id": "a", "step": 0}, "horizon": 2, "future": known})
    sent = tensors(0, 1)
    sent |= {"x": np.concatenate([sent["x"], np.full((1, 2, 1), rain, np.float32)], 2), "future": np.array([known], np.float32)}
    found = infer(service, inputs=sent, sequence_id="a", step=0, horizon=2)
    assert found.parameters["replayed"] is True
    assert (found.outputs["forecast"][0] == as_float32(native, "forecast")).all()
    del sent["future"]
    missing = infer(service, inputs=sent, sequence_id="a", step=2, horizon=2)
    assert missing.error.startswith("invalid_input: future: missing; a horizon of 2 needs 2 lists of 1 numbers (rain)")


@both_forms
def test_a_forecast_has_the_intervals_that_are_asked_for(meter, binary):
    service, x = make_service(meter), meter.sequence(5, seed=4)
    native = answer(service, {"inputs": x.tolist(), "session": {"id": "a", "step": 0}, "horizon": HORIZON, "levels": [95, 80]})
    found = infer(service, binary, inputs={"x": x[None]}, sequence_id="a", step=0, horizon=HORIZON, levels="95, 80")
    assert found.parameters["replayed"] is True
    assert list(found.outputs) == ["y", "forecast", "lower", "upper"]
    for i, level in enumerate(("95", "80")):
        for side in ("lower", "upper"):
            assert (found.outputs[side][0, i] == np.array(native["intervals"][level][side], np.float32)).all()


def test_one_level_may_be_a_number_and_one_bound_asked_for_alone(meter):
    service, x = make_service(meter), meter.sequence(5, seed=4)[None]
    found = infer(service, inputs={"x": x}, outputs=["upper"], horizon=2, levels=80)
    assert {name: array.shape for name, array in found.outputs.items()} == {"upper": (1, 1, 2, 1)}


TIME = texts("2018-09-29T20:00:00").reshape(1, 1)
X = np.ones((1, 1, 1), np.float32)
WRONG = {
    "a time for each row": (
        {"inputs": {"x": X, "time": TIME[0]}},
        "time: expected BYTES [1, 1], one for each step of each row, got BYTES [1]",
    ),
    "times that are numbers": ({"inputs": {"x": X, "time": np.ones((1, 1), np.int64)}}, "time: expected BYTES [1, 1]"),
    "a time with bytes that are no text": ({"inputs": {"x": X, "time": np.full((1, 1), b"\xff", object)}}, "time[0][0]: expected a time"),
    "a level that is no text": ({"inputs": {"x": X}, "horizon": 1, "levels": 80.5}, "parameters.levels: expected percentages"),
    "a level that is true": ({"inputs": {"x": X}, "horizon": 1, "levels": True}, "parameters.levels: expected percentages"),
    "levels in brackets": ({"inputs": {"x": X}, "horizon": 1, "levels": "[80]"}, 'parameters.levels: expected percentages such as "80,95"'),
    "a level of 100": ({"inputs": {"x": X}, "horizon": 1, "levels": "80,100"}, "levels: expected 1 to 99 percent, got 100"),
    "a level twice": ({"inputs": {"x": X}, "horizon": 1, "levels": "80,80"}, "levels: expected at most 20, each once, got 2"),
    "levels without a horizon": ({"inputs": {"x": X}, "levels": "80"}, "levels: go with a horizon"),
    "a bound without levels": ({"inputs": {"x": X}, "horizon": 1, "outputs": ["lower"]}, "outputs: lower goes with the parameter levels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(meter, name):
    sent, said = WRONG[name]
    found = infer(make_service(meter), True, **sent)
    assert (found.status, found.error[: len(said) + 15]) == (422, f"invalid_input: {said}")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"inputs": {"x": np.ones((1, 1, 3), np.float32), "time": TIME}}, "time: two-1.0 declares no calendar, so it knows no times"),
        ({"inputs": {"x": np.ones((1, 1, 3), np.float32)}, "levels": "80"}, "levels: two-1.0 was exported without --calibrate"),
    ],
)
def test_a_model_without_them_says_so(two, sent, said):
    found = infer(make_service(two), True, **sent)
    assert (found.status, found.error[: len(said) + 15]) == (422, f"invalid_input: {said}")


@both_forms
@pytest.mark.parametrize(("name", "output"), [("two", "output"), ("step", "y")])
def test_a_row_whose_gap_gives_it_more_steps_than_the_others_is_refused_alone(exported, binary, name, output):
    service = make_service(with_calendar(exported(name)))
    for id in ("a", "b"):
        infer(service, inputs=tensors(0), sequence_id=id, step=0)
    rows = [tensors(1), tensors(3)]
    sent = {name: np.concatenate([row[name] for row in rows]) for name in ("x", "time")}
    found = infer(service, binary, inputs=sent | {"session": texts("a", "b")}, outputs=[output])
    assert found.outputs["status"].tolist() == [200, 422]
    assert found.outputs["error"][1].startswith(f"invalid_input: {output}: 3 steps with the gaps that are filled, and 1 of")
    assert found.outputs[output].shape[:2] == (2, 1)
    assert answer(service, {"session": {"id": "b", "action": "describe"}})["session"]["step"] == 1
    alone = infer(service, binary, inputs=rows[1], sequence_id="b", step=1, outputs=[output])
    assert alone.outputs[output].shape[:2] == (1, 3)
