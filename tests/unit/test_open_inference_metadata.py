"""The metadata of a model names exactly the tensors that the codec takes and gives."""

from dataclasses import replace

import pytest

from export.packaging.model_spec import OTHER_TENSORS
from handlers.protocols.open_inference.decode import Decoder
from handlers.protocols.open_inference.metadata import model_metadata, server_metadata
from handlers.settings import Settings
from handlers.signature import Signature, StateEntry

LSTM = Signature(
    name="traffic",
    version="1.0",
    task="forecast",
    outputs=("volume",),
    output_mode="sequence",
    state=(StateEntry("h", 2, 5), StateEntry("c", 2, 8)),
    output_size=5,
    model_digest="00" * 32,
    features=("volume", "hour", "rain"),
    feedback={"volume": "volume"},
)


def shapes(tensors):
    return {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in tensors}


def test_a_server_names_its_extensions():
    assert server_metadata("1.2") == {"name": "cellstate", "version": "1.2", "extensions": ["binary_tensor_data", "sequence", "parameters"]}


def test_a_model_has_its_tensors_with_their_shapes():
    found = model_metadata(LSTM, ["1.0", "2.0"], "onnxruntime")
    assert (found["name"], found["versions"], found["platform"]) == ("traffic", ["1.0", "2.0"], "onnxruntime_onnx")
    inputs, outputs = shapes(found["inputs"]), shapes(found["outputs"])
    assert (inputs["x"], inputs["h_0"], inputs["c_0"]) == (("FP32", [-1, -1, 3]), ("FP32", [2, -1, 5]), ("FP32", [2, -1, 8]))
    assert (inputs["future"], outputs["forecast"]) == (("FP32", [-1, -1, 2]), ("FP32", [-1, -1, 1]))
    assert (outputs["y"], outputs["output"], outputs["h_n"]) == (("FP32", [-1, 1]), ("FP32", [-1, -1, 5]), ("FP32", [2, -1, 5]))


FULL = replace(
    LSTM,
    frequency="1h",
    calendar={"derived": {"hour": {"of": "hour"}}},
    intervals={"levels": [50, 80, 90, 95]},
    distribution=({"prediction": "volume"},),
)


@pytest.mark.parametrize("tensors", [{}, {"x": "INPUT", "y": "OUTPUT"}])
def test_it_names_what_the_codec_takes_and_gives(tensors):
    signature = replace(FULL, tensors=tensors)
    found, codec = model_metadata(signature, ["1.0"], "torchscript"), Decoder(signature, Settings())
    assert set(shapes(found["inputs"])) == set(codec.inputs)
    assert set(shapes(found["outputs"])) == set(codec.outputs)


def test_a_model_with_a_calendar_and_intervals_has_their_tensors():
    found = model_metadata(FULL, ["1.0"], "onnxruntime")
    assert shapes(found["inputs"])["time"] == ("BYTES", [-1, -1])
    outputs = shapes(found["outputs"])
    assert outputs["times"] == ("BYTES", [-1, -1])
    assert outputs["lower"] == outputs["upper"] == ("FP32", [-1, -1, -1, 1])


def test_no_tensor_of_a_model_may_take_the_name_of_another():
    classifier = replace(LSTM, task="classify", outputs=("low", "high"), feedback={})
    decoders = [Decoder(signature, Settings()) for signature in (FULL, classifier)]
    names = {name for decoder in decoders for name in (*decoder.inputs, *decoder.outputs)}
    assert set(OTHER_TENSORS) == names - {"x", "y", "h_0", "c_0", "h_n", "c_n"}


@pytest.mark.parametrize(
    ("change", "inputs", "outputs"),
    [
        ({"streaming": False}, {"x"}, {"y", "output", "h_n", "c_n"}),
        ({"feedback": {}}, {"x", "h_0", "c_0", "state", "session", "step", "generation"}, None),
    ],
)
def test_what_a_model_cannot_do_is_left_out(change, inputs, outputs):
    found = model_metadata(replace(LSTM, **change), ["1.0"], "onnxruntime")
    assert set(shapes(found["inputs"])) == inputs
    assert outputs is None or set(shapes(found["outputs"])) == outputs


def test_token_ids_and_predictions_at_every_step():
    found = model_metadata(replace(LSTM, features=(), vocabulary=9, output_mode="step", feedback={}), ["1.0"], "onnxruntime")
    assert shapes(found["inputs"])["x"] == ("INT64", [-1, -1])
    assert shapes(found["outputs"])["y"] == ("FP32", [-1, -1, 1])
