"""`tensors` of model.json: what clients of the Open Inference Protocol call x and y."""

import pytest

from export.errors import CheckpointError
from export.packaging.model_spec import ModelSpec


def spec(tensors):
    return ModelSpec("net", "1.0", "net.py:Net", "regress", tensors=tensors)


@pytest.mark.parametrize("tensors", [{}, {"x": "INPUT"}, {"x": "INPUT__0", "y": "OUTPUT__0"}, {"y": "serving_default:y"}])
def test_a_name_that_no_other_tensor_has_is_taken(tensors):
    assert spec(tensors).tensors == tensors


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"h_n": "STATE"}, r"tensors: expected names for x and y, got one for 'h_n'"),
        ({"x": "y"}, r"tensors\.x: expected 1 to 64 of the characters .*, and no name of another tensor, got 'y'"),
        ({"y": "output"}, "got 'output'"),
        ({"y": "label"}, "got 'label'"),
        ({"x": "session"}, "got 'session'"),
        ({"x": "h_0"}, "got 'h_0'"),
        ({"y": "encoder_c_n"}, "got 'encoder_c_n'"),
        ({"x": ""}, "got ''"),
        ({"x": "a b"}, "got 'a b'"),
        ({"x": "a" * 65}, "got 'a"),
        ({"x": 1}, "got 1"),
        (["INPUT"], r"tensors: expected names such as .*, got \['INPUT'\]"),
    ],
)
def test_any_other_is_refused(tensors, said):
    with pytest.raises(CheckpointError, match=said):
        spec(tensors)


def test_two_tensors_have_two_names():
    with pytest.raises(CheckpointError, match="tensors: x and y are both called 'value'"):
        spec({"x": "value", "y": "value"})
