"""The signature: what a worker knows of its model, or a refusal to start that says what to do."""

import numpy as np
import orjson
import pytest

from handlers.errors import ConfigurationError
from handlers.signature import Signature, StateEntry
from tests.support.signatures import METER, RETRAINED, TRAFFIC

DOCUMENT = {
    "format": 1,
    "name": "traffic",
    "version": "1.0",
    "task": "forecast",
    "inputs": {"kind": "features", "features": ["flow", "hour", "rain"]},
    "outputs": {"names": ["flow"], "per": "sequence", "output_size": 5},
    "state": [{"name": "h", "rows": 2, "size": 5, "dtype": "float32"}, {"name": "c", "rows": 2, "size": 8, "dtype": "float32"}],
    "initial": [],
    "steps": {"least": 1, "most": None},
    "feedback": {"flow": "flow"},
    "streaming": {"possible": True, "reason": ""},
    "artefacts": {"onnxruntime": "model.onnx"},
    "digests": {"model": "ab" * 32},
}


def written(folder, document):
    path = folder / "signature.json"
    path.write_bytes(orjson.dumps(document))
    return path


def test_a_document_is_read_as_it_was_meant(tmp_path):
    signature = Signature.load(written(tmp_path, DOCUMENT))
    assert (signature.label, signature.state_length, signature.digest) == ("traffic-1.0", 26, bytes([0xAB] * 16))
    assert signature.state == TRAFFIC.state
    assert signature.raw == DOCUMENT


def test_entries_name_the_graphs_tensors_and_sort_alike_on_both_sides():
    h, c = StateEntry("h", 2, 5), StateEntry("c", 2, 8)
    assert [(e.input, e.output, e.length) for e in (h, c)] == [("h_0", "h_n", 10), ("c_0", "c_n", 16)]


def test_what_does_not_feed_back_is_known_in_advance():
    assert (TRAFFIC.feedback_columns, TRAFFIC.future_columns) == (((0, 0),), (1, 2))
    assert METER.future_columns == ()


def test_a_stream_begins_with_zeros_or_with_what_the_model_has_learned(tmp_path):
    assert not TRAFFIC.initial_state.any()
    learned = Signature.load(written(tmp_path, DOCUMENT | {"initial": [0.5] * 26})).initial_state
    assert (learned.dtype, learned.tolist()) == (np.float32, [0.5] * 26)


def test_another_weight_is_another_model():
    assert TRAFFIC.digest != RETRAINED.digest


@pytest.mark.parametrize("name", [name for name in DOCUMENT if name not in ("feedback",)])
def test_a_document_without_a_part_refuses_to_start(tmp_path, name):
    path = written(tmp_path, {key: value for key, value in DOCUMENT.items() if key != name})
    with pytest.raises(ConfigurationError, match=r"signature\.json: cannot be read.*python -m export build"):
        Signature.load(path)


def test_no_document_and_a_broken_one_refuse_to_start(tmp_path):
    (tmp_path / "broken.json").write_bytes(b'{"format": 1')
    for path in (tmp_path / "nothing.json", tmp_path / "broken.json"):
        with pytest.raises(ConfigurationError, match=path.name):
            Signature.load(path)


def test_a_newer_format_is_refused_by_its_number(tmp_path):
    with pytest.raises(ConfigurationError, match="signature format 2, this release reads 1"):
        Signature.load(written(tmp_path, DOCUMENT | {"format": 2}))


def test_the_memory_tells_how_close_a_rebuilt_state_is():
    measured = {"steps": 40, "limit": 512, "tolerance": 2e-5, "agreement": [[1, None], [2, 0.5], [32, 1e-4], [40, 1.8e-5]]}
    signature = Signature.from_document(DOCUMENT | {"memory": measured})
    assert signature.memory_steps == 40
    assert [signature.agreement(steps) for steps in (0, 1, 2, 31, 39, 40, 99)] == [None, None, 0.5, 0.5, 1e-4, 1.8e-5, 1.8e-5]


def test_archives_of_earlier_releases_tell_no_memory():
    signature = Signature.from_document(DOCUMENT)
    assert (signature.memory_steps, signature.agreement(100)) == (None, None)
