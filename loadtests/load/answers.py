"""The requests that a load test can send, and the offline answers to them: real series where the model has some, random ones otherwise."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtests.offline import WINDOW, Array, OfflineModel, sequences

HORIZON = 6  # steps of a forecast


@dataclass
class Answers:
    """N sequences of T steps, and what the model answers to them offline. Predictions have O values.

    Attributes:
        x: the sequences, `[N, T, F]` float32, or `[N, T]` int64 token ids.
        window: predictions for the first WINDOW steps, `[N, O]`, or `[N, WINDOW, O]` for a model with one prediction each step.
        stream: predictions after each step of the whole sequence, `[N, T, O]`; empty for a model that cannot stream.
        forecast: forecasts after the first WINDOW steps, `[N, HORIZON, O]`; empty for a model without feedback.
        hidden: `output` `[N, WINDOW, D*P]`, and each final state `[N, L*D, size]`, after the first WINDOW steps.
    """

    model: str
    version: str
    digest: str
    tolerance: float  # scaled: relative to the largest absolute value of a whole answer, or to 1 where that is smaller
    per_step: bool
    future: list[int]  # the columns of x that a forecast is given in advance
    x: Array
    window: Array
    stream: Array
    forecast: Array
    hidden: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def compute(cls, model: OfflineModel, seed: int = 0) -> "Answers":
        """Draw sequences and run the model over them.

        Raises:
            ValueError: no inputs were found that the model answers differently.
        """
        x = sequences(model, seed)
        about: dict[str, Any] = {"model": model.name, "version": str(model.signature["version"]), "digest": model.digest}
        about |= {"tolerance": model.tolerance, "per_step": model.per_step, "future": _future(model.signature)}
        names = ["y", "output", *(f"{name}_n" for name in model.states)]
        y, output, *states = model.outputs(names, model.begin(len(x)), x[:, :WINDOW])
        hidden = {"output": output} | {name: np.swapaxes(value, 0, 1) for name, value in zip(names[2:], states, strict=True)}
        stream = _stream(model, x) if model.streaming else np.empty(0)
        return cls(**about, x=x, window=model.predictions(y), stream=stream, forecast=_forecast(model, x), hidden=hidden)

    def save(self, path: Path) -> None:
        """Write the answers as a NumPy archive."""
        arrays: dict[str, Array] = {name: getattr(self, name) for name in ("x", "window", "stream", "forecast")}
        head = {name: getattr(self, name) for name in ("model", "version", "digest", "tolerance", "per_step", "future")}
        arrays |= {"head": np.frombuffer(orjson.dumps(head), np.uint8)} | {f"hidden {k}": v for k, v in self.hidden.items()}
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Answers":
        """Read answers that `save` wrote."""
        with np.load(path) as file:
            hidden = {name.removeprefix("hidden "): file[name] for name in file.files if name.startswith("hidden ")}
            arrays = {name: file[name] for name in ("x", "window", "stream", "forecast")}
            return cls(**orjson.loads(file["head"].tobytes()), **arrays, hidden=hidden)

    @property
    def streaming(self) -> bool:
        """Whether the model serves sessions."""
        return len(self.stream) > 0

    @property
    def forecasts(self) -> bool:
        """Whether the model forecasts over a horizon."""
        return len(self.forecast) > 0

    @property
    def steps(self) -> int:
        """T, the length of a sequence."""
        return int(self.x.shape[1])

    def after(self, row: int, start: int, stop: int) -> Array:
        """Return the prediction for a request of steps `start .. stop` of a stream: `[O]`, or `[stop - start, O]`."""
        return np.asarray(self.stream[row, start:stop] if self.per_step else self.stream[row, stop - 1])


def _stream(model: OfflineModel, x: Array) -> Array:
    """Return the predictions after each step. A model with one prediction a sequence runs every beginning of it as a whole."""
    if model.per_step:
        return model.predict(x)
    return np.stack([model.predict(x[:, :stop]) for stop in range(1, x.shape[1] + 1)], axis=1)


def _future(signature: dict[str, Any]) -> list[int]:
    features, fed = list(signature["inputs"].get("features", [])), set((signature.get("feedback") or {}).values())
    return [i for i, name in enumerate(features) if name not in fed] if fed else []


def _forecast(model: OfflineModel, x: Array) -> Array:
    """Roll the model forward on its own predictions; the first forecast is the prediction after the window."""
    feedback = model.signature.get("feedback") or {}
    if not feedback or not model.streaming:
        return np.empty(0)
    features, outputs = model.signature["inputs"]["features"], model.signature["outputs"]["names"]
    names = ["y", *(f"{name}_n" for name in model.states)]
    y, *state = model.outputs(names, model.begin(len(x)), x[:, :WINDOW])
    forecasts = [y[:, -1] if model.per_step else y]
    for i in range(1, HORIZON):
        fed = x[:, WINDOW + i - 1].copy()
        for output, feature in feedback.items():
            fed[:, features.index(feature)] = forecasts[-1][:, outputs.index(output)]
        y, *state = model.outputs(names, state, fed[:, None])
        forecasts.append(y[:, -1] if model.per_step else y)
    return model.predictions(np.stack(forecasts, axis=1))
