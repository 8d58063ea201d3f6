"""What a model is: the typed reading of `signature.json`, which the exporter writes and every archive carries.

It knows names, sizes and digests. It does not know how a backend loads the model or how a session uses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import orjson

from handlers.errors import ConfigurationError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class StateEntry:
    """One state tensor of the graph, `[rows, B, size]`: input `{name}_0`, output `{name}_n`."""

    name: str
    rows: int  # L*D
    size: int  # H, or P for a projected hidden state

    @property
    def input(self) -> str:
        return f"{self.name}_0"

    @property
    def output(self) -> str:
        return f"{self.name}_n"

    @property
    def length(self) -> int:
        return self.rows * self.size


@dataclass(frozen=True)
class Signature:
    """One exported model. Instances are values: equal content, equal signature."""

    name: str
    version: str
    task: str  # forecast | regress | classify
    outputs: tuple[str, ...]
    output_mode: str  # y: "sequence" [B, O] or "step" [B, T, O]
    state: tuple[StateEntry, ...]  # in the order of the graph's inputs and of its outputs
    output_size: int  # D*P
    model_digest: str  # hexadecimal; a state belongs to exactly one
    features: tuple[str, ...] = ()  # empty for token ids
    vocabulary: int = 0  # number of token ids; 0 for numeric features
    input_limit: float = float(np.finfo(np.float32).max)  # up to which the artefacts were found right
    ids: Mapping[str, int] = field(default_factory=dict)  # feature that indexes a table -> rows of the table
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # feature of integers -> the least and the most the model takes
    integers: tuple[str, ...] = ()  # features that are integers inside the model, at most 2^24
    nonnegative: tuple[str, ...] = ()  # features of which no negative number was measured
    nonpositive: tuple[str, ...] = ()
    example: tuple[Any, ...] = ()  # `inputs` of a request that is answered; empty in archives of earlier releases
    initial: tuple[float, ...] = ()  # what a new stream begins with, [S]; empty for zeros
    min_steps: int = 1  # T that the model takes at once
    max_steps: int | None = None
    streaming: bool = True
    streaming_reason: str = ""
    feedback: Mapping[str, str] = field(default_factory=dict)  # output name -> feature name
    frequency: str = ""
    calendar: Mapping[str, Any] = field(default_factory=dict)  # time zone, gaps and derived features; empty: the model knows no times
    memory: Mapping[str, Any] = field(default_factory=dict)  # how far back a stream's state depends on its inputs; empty: not measured
    intervals: Mapping[str, Any] = field(default_factory=dict)  # errors on a calibration series: handlers/forecasting/intervals.py
    tensors: Mapping[str, str] = field(default_factory=dict)  # x and y -> what clients of the Open Inference Protocol call them
    distribution: tuple[Mapping[str, Any], ...] = ()  # what the outputs are parameters of: handlers/forecasting/distributions.py
    artefacts: Mapping[str, str] = field(default_factory=dict)  # backend -> file name
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # the whole document, for `describe`

    MAX_INTEGER: ClassVar[int] = 2**24  # up to which float32 holds every integer

    @property
    def tokens(self) -> bool:
        return self.vocabulary > 0

    @property
    def label(self) -> str:
        return f"{self.name}-{self.version}"

    @cached_property
    def digest(self) -> bytes:
        """First 16 bytes of the model digest, as state bytes carry it."""
        return bytes.fromhex(self.model_digest)[:16]

    @cached_property
    def state_length(self) -> int:
        """S: float32 values in one row's whole state."""
        return sum(entry.length for entry in self.state)

    @cached_property
    def state_outputs(self) -> tuple[str, ...]:
        """Names of the state tensors as the graph returns them, such as `h_n`."""
        return tuple(entry.output for entry in self.state)

    @cached_property
    def initial_state(self) -> npt.NDArray[np.float32]:
        """[S]: what a stream begins with. Shared: nobody writes into it."""
        return np.array(self.initial, np.float32) if self.initial else np.zeros(self.state_length, np.float32)

    @cached_property
    def feedback_columns(self) -> tuple[tuple[int, int], ...]:
        """(output column, feature column) pairs that feed back in a rollout."""
        return tuple((self.outputs.index(o), self.features.index(f)) for o, f in self.feedback.items())

    @cached_property
    def predictions(self) -> tuple[str, ...]:
        """Names of the values of a prediction: the outputs, or of each distribution that they describe its mean or median."""
        return tuple(entry["prediction"] for entry in self.distribution) or self.outputs

    @cached_property
    def prediction_columns(self) -> list[int] | None:
        """The columns of y that are predictions; None for all."""
        return [self.outputs.index(name) for name in self.predictions] if self.distribution else None

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes of a classifier, one for each output; none for other models."""
        return self.outputs if self.task == "classify" and len(self.outputs) > 1 else ()

    @cached_property
    def has_probabilities(self) -> bool:
        """Whether a classifier's outputs are probabilities, as its recorded example tells, and not their logarithms or logits."""
        recorded = np.array(self.raw.get("outputs", {}).get("example", [-1.0]), np.float64)
        return bool((recorded >= 0).all() and np.allclose(recorded.sum(axis=-1), 1, atol=1e-4))

    @cached_property
    def fed_outputs(self) -> list[int]:
        """The output columns that feed back."""
        return [output for output, _ in self.feedback_columns]

    @cached_property
    def fed_features(self) -> list[int]:
        """The feature columns that outputs feed back into, in the order of `fed_outputs`."""
        return [feature for _, feature in self.feedback_columns]

    @cached_property
    def future_columns(self) -> tuple[int, ...]:
        """Feature columns that do not feed back: the K columns of `future`."""
        return tuple(i for i in range(len(self.features)) if i not in self.fed_features)

    @property
    def memory_steps(self) -> int | None:
        """After how many steps it makes no difference from which state a stream began; None: longer than was measured, or not measured."""
        steps: int | None = self.memory.get("steps")
        return steps

    def agreement(self, steps: int) -> float | None:
        """Return the scaled difference, at most, of a state that is rebuilt from the last `steps` inputs; None: not known."""
        known: list[float | None] = [value for measured, value in self.memory.get("agreement", ()) if measured <= steps]
        return known[-1] if known else None

    @classmethod
    def load(cls, path: Path) -> "Signature":
        """Read `signature.json`. Raises ConfigurationError when it is missing, broken or of a newer format."""
        try:
            document = orjson.loads(path.read_bytes())
            return cls.from_document(document)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ConfigurationError(
                f"{path}: cannot be read as a signature: {e!r}; rebuild the archive with `python -m export build`"
            ) from e

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Signature":
        if document["format"] != FORMAT:
            raise ConfigurationError(f"signature format {document['format']}, this release reads {FORMAT}: export the model again")
        inputs, outputs, streaming = document["inputs"], document["outputs"], document["streaming"]
        return cls(
            name=document["name"],
            version=document["version"],
            task=document["task"],
            outputs=tuple(outputs["names"]),
            output_mode=outputs["per"],
            state=tuple(StateEntry(e["name"], e["rows"], e["size"]) for e in document["state"]),
            output_size=outputs["output_size"],
            model_digest=document["digests"]["model"],
            features=tuple(inputs.get("features", ())),
            vocabulary=inputs.get("vocabulary", 0),
            input_limit=inputs.get("limit", float(np.finfo(np.float32).max)),
            ids=inputs.get("ids", {}),
            ranges={name: (least, most) for name, (least, most) in inputs.get("ranges", {}).items()},
            integers=tuple(inputs.get("integers", ())),
            nonnegative=tuple(inputs.get("nonnegative", ())),
            nonpositive=tuple(inputs.get("nonpositive", ())),
            example=tuple(inputs.get("example", ())),
            initial=tuple(document["initial"]),
            min_steps=document["steps"]["least"],
            max_steps=document["steps"]["most"],
            streaming=streaming["possible"],
            streaming_reason=streaming["reason"],
            feedback=document.get("feedback", {}),
            frequency=document.get("frequency", ""),
            calendar=document.get("calendar", {}),
            memory=document.get("memory", {}),
            intervals=document.get("intervals", {}),
            tensors=document.get("tensors", {}),
            distribution=tuple(document.get("distribution", ())),
            artefacts=document["artefacts"],
            raw=document,
        )
