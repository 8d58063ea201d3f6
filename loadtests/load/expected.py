"""What a right answer is: the requests that a load test sends, the offline answers to them, and the comparison.

NumPy only. It does not know how the offline answers came about (`offline`), who sends the requests (`locustfile`) or where to.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.offline import WINDOW, Array, OfflineModel, sequences

PREDICT, OPEN, STEP = "predict", "stream: open", "stream: step"
SEVERAL, RETRY, CLOSE = "stream: several steps", "stream: retry", "stream: close"
KINDS = (PREDICT, OPEN, STEP, SEVERAL, RETRY, CLOSE)
MOST_STEPS = 6  # of one request of a stream
SEVERAL_SHARE, RETRY_SHARE = 0.15, 0.1  # of a stream's requests


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One request of a stream: the steps `start .. stop` of its sequence; none for the close."""

    kind: str
    start: int
    stop: int


def script(steps: int, draw: random.Random) -> Iterator[StreamRequest]:
    """The requests of one stream over a sequence of `steps`, from its open to its close."""
    start = 0
    while start < steps:
        stop = min(steps, start + (draw.randint(2, MOST_STEPS) if draw.random() < SEVERAL_SHARE else 1))
        yield StreamRequest(OPEN if start == 0 else STEP if stop == start + 1 else SEVERAL, start, stop)
        if draw.random() < RETRY_SHARE:
            yield StreamRequest(RETRY, start, stop)
        start = stop
    yield StreamRequest(CLOSE, steps, steps)


def body(inputs: Array, request: StreamRequest, id: str) -> dict[str, Any]:
    """The request object of one `request` to session `id`. `inputs` is the whole sequence."""
    if request.kind == CLOSE:
        return {"session": {"id": id, "action": "close"}}
    return {"inputs": inputs[request.start : request.stop].tolist(), "session": {"id": id, "step": request.start}}


def wrong_session(answer: Mapping[str, Any], request: StreamRequest, id: str) -> str:
    """What is wrong with an answer's `session`; empty when nothing is."""
    session = answer.get("session")
    if not isinstance(session, dict):
        return f"session: missing in the answer to step {request.start}"
    right = {"id": id, "step": request.stop, "replayed": request.kind == RETRY, "closed": request.kind == CLOSE}
    seen = {"closed": False} | session
    return "; ".join(f"session.{name}: {seen.get(name)!r} instead of {value!r}" for name, value in right.items() if seen.get(name) != value)


@dataclass
class Expected:
    """Sequences and the model's offline answers to them. N sequences of T steps; per sequence O values, per step `[T, O]`."""

    model: str
    tolerance: float  # scaled, as the exporter measured
    per: str  # "sequence" or "step"
    x: Array  # [N, T, F] float32, or [N, T] int64 token ids
    window: Array  # answers to the first WINDOW steps alone: [N, O], or [N, WINDOW, O] per step
    stream: Array  # predictions after each step of the whole sequence, [N, T, O]; [0] when the model cannot stream
    largest: float = 0.0  # the largest scaled difference compared so far

    def save(self, path: Path) -> None:
        model, tolerance, per = np.array(self.model), np.array(self.tolerance), np.array(self.per)
        np.savez(path, model=model, tolerance=tolerance, per=per, x=self.x, window=self.window, stream=self.stream)

    @classmethod
    def compute(cls, model: OfflineModel, seed: int = 0) -> "Expected":
        """Draw sequences and run the model over them. Raises ValueError when no inputs make its answers differ."""
        x = sequences(model, seed)
        stream = _stream(model, x) if model.streaming else np.empty(0)
        per = "step" if model.per_step else "sequence"
        return cls(model.name, model.tolerance, per, x, model.predict(x[:, :WINDOW]), stream)

    @classmethod
    def load(cls, path: Path) -> "Expected":
        with np.load(path) as file:
            head = str(file["model"]), float(file["tolerance"]), str(file["per"])
            return cls(*head, file["x"], file["window"], file["stream"])

    @property
    def streaming(self) -> bool:
        return len(self.stream) > 0

    def wrong_window(self, row: int, answer: Mapping[str, Any]) -> str:
        """What is wrong with the answer to the first WINDOW steps of sequence `row`; empty when nothing is."""
        return self._wrong(answer, self.window[row], _scale(self.window[row]), f"window {row}")

    def wrong_step(self, row: int, request: StreamRequest, answer: Mapping[str, Any]) -> str:
        """What is wrong with the answer to `request` in a stream of sequence `row`; empty when nothing is."""
        right = self.stream[row, request.stop - 1] if self.per == "sequence" else self.stream[row, request.start : request.stop]
        return self._wrong(answer, right, _scale(self.stream[row]), f"sequence {row}, steps {request.start} to {request.stop}")

    def _wrong(self, answer: Mapping[str, Any], right: Array, scale: float, where: str) -> str:
        given = _numbers(answer.get("prediction"))
        if given is None or given.shape != right.shape:
            return f"{where}: prediction is no array of shape {list(right.shape)}"
        difference = float(np.abs(given - right).max()) / scale
        self.largest = max(self.largest, difference)
        if difference <= self.tolerance:  # false for a NaN
            return ""
        return f"{where}: prediction differs from the offline answer by {difference:.1e} (scaled), allowed {self.tolerance:.0e}"


def _stream(model: OfflineModel, x: Array) -> Array:
    """Predictions after each step, `[N, T, O]`. A model with one prediction a sequence runs each beginning of it as a whole."""
    if model.per_step:
        return model.predict(x)
    return np.stack([model.predict(x[:, :stop]) for stop in range(1, x.shape[1] + 1)], axis=1)


def _scale(reference: Array) -> float:
    """The largest absolute value of a whole offline answer, at least 1: a prediction near zero is a sum of terms like its neighbours'."""
    return max(1.0, float(np.abs(reference).max()))


def _numbers(value: object) -> Array | None:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
