"""Run an archive's own `model.onnx` over whole sequences, with nothing of the serving path: the answers that a deployment is held to.

ONNX Runtime and NumPy only: no handler, no session, no batch of ragged rows, no torch.
"""

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from examples import traffic_data

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its Linux wheels report home from 1.29 on, as soon as they are imported
import onnxruntime

Array = npt.NDArray[Any]

SEQUENCES, STEPS = 64, 48  # drawn for a load test
WINDOW = 24  # steps of a request that stands alone
CONTRAST = 1_000  # answers to two sequences must differ by more than this many tolerances, or a mix-up would go unseen
SCALES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # of random features whose units are unknown


class OfflineModel:
    """The ONNX graph of an archive, run on one thread. States are lists of arrays `[L*D, N, size]`, in the signature's order."""

    def __init__(self, archive: Path) -> None:
        with zipfile.ZipFile(archive) as contents:
            self.signature: dict[str, Any] = orjson.loads(contents.read("signature.json"))
            graph = contents.read(self.signature["artefacts"]["onnxruntime"])
        self.tolerance = float(self.signature["parity"]["tolerance"])
        self.streaming = bool(self.signature["streaming"]["possible"])
        self.per_step = self.signature["outputs"]["per"] == "step"
        self.states = [str(entry["name"]) for entry in self.signature["state"]]
        names, described = self.signature["outputs"]["names"], self.signature.get("distribution", ())
        self._predictions = [names.index(entry["prediction"]) for entry in described] or slice(None)
        self._session = _load(graph)

    @property
    def name(self) -> str:
        """The name that the model is served under."""
        return str(self.signature["name"])

    @property
    def digest(self) -> str:
        """The digest of weights and graph, in hexadecimal."""
        return str(self.signature["digests"]["model"])

    def begin(self, rows: int = 1) -> list[Array]:
        """Return the state at the start of a stream, `rows` times: the learned initial state, or zeros."""
        entries, initial = self.signature["state"], np.array(self.signature["initial"], np.float32)
        sizes = [entry["rows"] * entry["size"] for entry in entries]
        parts = np.split(initial if len(initial) else np.zeros(sum(sizes), np.float32), np.cumsum(sizes)[:-1])
        shaped = [part.reshape(entry["rows"], 1, entry["size"]) for part, entry in zip(parts, entries, strict=True)]
        return [np.repeat(part, rows, axis=1) for part in shaped]

    def outputs(self, names: Sequence[str], state: list[Array], x: Array) -> list[Array]:
        """Run `x`, `[N, T, F]` or `[N, T]`, from `state`; return the named outputs of the graph."""
        given = {f"{name}_0": value for name, value in zip(self.states, state, strict=True)}
        return [np.asarray(value) for value in self._session.run(list(names), {"x": x, **given})]

    def predictions(self, y: Array) -> Array:
        """Return the columns of y that are predictions: all, or of a model of distributions their means or medians."""
        return np.asarray(y[..., self._predictions])

    def run(self, state: list[Array], x: Array) -> tuple[list[Array], Array]:
        """Consume `x`, `[T, F]` or `[T]`; return the state after it and the prediction, `[O]` or `[T, O]`."""
        y, *after = self.outputs(["y", *(f"{name}_n" for name in self.states)], state, x[None])
        return after, self.predictions(y[0])

    def predict(self, x: Array) -> Array:
        """Return the predictions for whole sequences `[N, T, …]` from the start of a stream, `[N, O]` or `[N, T, O]`."""
        return self.predictions(self.outputs(["y"], self.begin(len(x)), x)[0])


def sequences(model: OfflineModel, seed: int = 0) -> Array:
    """Draw inputs whose answers differ from sequence to sequence: `[SEQUENCES, STEPS, F]` float32, or `[SEQUENCES, STEPS]` token ids.

    Raises:
        ValueError: the model answers all inputs that were tried alike.
    """
    for x in _inputs(model.signature, np.random.default_rng(seed)):
        if _contrast(model.predict(x[:, :WINDOW])) > CONTRAST * model.tolerance:
            return x
    raise ValueError(f"{model.name}: the model answers all random inputs alike, so its answers could not tell two streams apart")


def pool(model: OfflineModel, seed: int) -> Array:
    """Return the rows that a history's inputs are named by, `[N, F]` or `[N]`: the drawn sequences, end to end."""
    x = sequences(model, seed)
    return x.reshape(-1, *x.shape[2:])


def _load(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _inputs(signature: dict[str, Any], draw: np.random.Generator) -> Iterator[Array]:
    """Yield inputs to try, best first: real rows for the traffic model, random ones for any other."""
    inputs = signature["inputs"]
    if "vocabulary" in inputs:
        yield draw.integers(inputs["vocabulary"], size=(SEQUENCES, STEPS))
        return
    if tuple(inputs["features"]) == traffic_data.FEATURES:
        yield _traffic(draw)
    for scale in SCALES:
        yield (scale * draw.standard_normal((SEQUENCES, STEPS, len(inputs["features"])))).astype(np.float32)


def _traffic(draw: np.random.Generator) -> Array:
    """Draw stretches of the hours that the traffic model was not trained on, `[N, T, F]`."""
    rows = traffic_data.inputs(traffic_data.load())[-traffic_data.TEST_HOURS :]
    starts = draw.integers(0, len(rows) - STEPS, size=(SEQUENCES, 1))
    return np.asarray(rows[starts + np.arange(STEPS)])


def _contrast(y: Array) -> float:
    """Return how far apart the answers to different sequences lie, scaled as a difference is."""
    return float(np.ptp(y, axis=0).max()) / max(1.0, float(np.abs(y).max()))
