"""The offline answers: an archive's own `model.onnx` over whole sequences, in one go, from a zero state.

Nothing of the serving path takes part: no handler, no session, no carried state, no ragged batch. ONNX Runtime and NumPy; no torch.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from examples import traffic_data
from loadtests.load.expected import WINDOW, Array, Expected

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its Linux wheels report home from 1.29 on, as soon as they are imported
import onnxruntime

SEQUENCES, STEPS = 64, 48
CONTRAST = 1_000  # the answers to two sequences must lie further apart than this many tolerances, or a mix-up would pass unseen
SCALES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # of random features whose units nobody knows

Model = Callable[[Array], Array]  # x [N, T, …] -> y [N, O] or [N, T, O]


def expected(archive: Path, seed: int = 0) -> Expected:
    """Draw sequences for the model in `archive` and run them offline. Raises ValueError when no inputs make its answers differ."""
    with zipfile.ZipFile(archive) as contents:
        signature = orjson.loads(contents.read("signature.json"))
        model = _model(contents.read(signature["artefacts"]["onnxruntime"]), signature)
    tolerance = signature["parity"]["tolerance"]
    for x in _inputs(signature, np.random.default_rng(seed)):
        window = model(x[:, :WINDOW])
        if _contrast(window) > CONTRAST * tolerance:
            stream = _stream(model, x, signature) if signature["streaming"]["possible"] else np.empty(0)
            return Expected(signature["name"], tolerance, signature["outputs"]["per"], x, window, stream)
    raise ValueError(f"{archive}: the model answers all random inputs alike: nothing could be told from such answers")


def load(graph: bytes) -> Any:
    """ONNX Runtime's session for a graph, on one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _model(graph: bytes, signature: dict[str, Any]) -> Model:
    session = load(graph)

    def run(x: Array) -> Array:
        zeros = {f"{e['name']}_0": np.zeros((e["rows"], len(x), e["size"]), np.float32) for e in signature["state"]}
        (y,) = session.run(["y"], {"x": x, **zeros})
        return np.asarray(y)

    return run


def _stream(model: Model, x: Array, signature: dict[str, Any]) -> Array:
    """Predictions after each step, `[N, T, O]`. A model with one prediction a sequence runs each beginning of it as a whole."""
    if signature["outputs"]["per"] == "step":
        return model(x)
    return np.stack([model(x[:, :stop]) for stop in range(1, x.shape[1] + 1)], axis=1)


def _inputs(signature: dict[str, Any], draw: np.random.Generator) -> Iterator[Array]:
    """Inputs to try, best first: real rows for the traffic model, else random ones."""
    inputs = signature["inputs"]
    if "vocabulary" in inputs:
        yield draw.integers(inputs["vocabulary"], size=(SEQUENCES, STEPS))
        return
    if tuple(inputs["features"]) == traffic_data.FEATURES:
        yield _traffic(draw)
    for scale in SCALES:
        yield (scale * draw.standard_normal((SEQUENCES, STEPS, len(inputs["features"])))).astype(np.float32)


def _traffic(draw: np.random.Generator) -> Array:
    """Stretches of the hours that the model was not trained on, `[N, T, F]`."""
    rows = traffic_data.inputs(traffic_data.load())[-traffic_data.TEST_HOURS :]
    starts = draw.integers(0, len(rows) - STEPS, size=(SEQUENCES, 1))
    return np.asarray(rows[starts + np.arange(STEPS)])


def _contrast(y: Array) -> float:
    """How far apart the answers to different sequences lie, scaled as a difference is."""
    return float(np.ptp(y, axis=0).max()) / max(1.0, float(np.abs(y).max()))
