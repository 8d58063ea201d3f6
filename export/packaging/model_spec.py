"""Read and check `model.json`: the name, task, features and outputs of a model, which cannot be measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from export.errors import CheckpointError
from export.lift.arguments import AXES
from export.lift.lifted import Lift
from export.packaging import distribution
from export.scaling import check_scaler
from handlers.errors import ConfigurationError
from handlers.forecasting.calendar import Calendar

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TASKS = ("forecast", "regress", "classify")
RENAMED = ("x", "y")  # the tensors that a model may call otherwise in the Open Inference Protocol
TENSOR_NAME = re.compile(r"(?!.*[^_]_[0n]$)[A-Za-z0-9_.:/-]{1,64}")  # not that of a state
OBSERVED_TIME = "time"  # a field of every observation
OTHER_TENSORS = (  # of the protocol
    *("output", "state", "time", "times", "future", "forecast", "lower", "upper"),
    *("session", "step", "generation", "status", "error", "imputed", "parameters", "samples", "label", "probabilities"),
)


@dataclass(frozen=True)
class ModelSpec:
    """What the builder of a model states about it; the fields of `model.json`."""

    name: str
    version: str
    factory: str  # path/to/file.py:function_or_class
    task: str
    outputs: tuple[str, ...] = ()  # named y0, y1, … when left out
    arguments: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()  # named x0, x1, … when left out
    tokens: int = 0  # size of the vocabulary, for token ids
    feedback: Mapping[str, str] = field(default_factory=dict)
    frequency: str = ""  # of the observations, such as "15min", "1h", "1D"
    calendar: Mapping[str, Any] = field(default_factory=dict)  # time zone, gaps and derived features: handlers/forecasting/calendar.py
    tensors: Mapping[str, str] = field(default_factory=dict)  # x and y -> their names in the Open Inference Protocol, where others
    distribution: str = ""  # what the outputs are parameters of, such as "normal:mu,sigma": export/packaging/distribution.py
    description: str = ""
    example: tuple[Any, ...] = ()  # one window as `inputs` would have it; what parity is measured on
    scaler: Mapping[str, Any] = field(default_factory=dict)  # mean, scale, output_mean, output_scale of a scaler outside the module
    axes: str = ""  # BTF, TBF or BFT, where the example does not show which axis is time
    x: str = ""  # the argument of forward that runs over time, where it is not clear
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # how a client makes its inputs
    attribution: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise CheckpointError(f"name: expected 1 to 64 of the characters A-Z a-z 0-9 _ . -, got {self.name!r}")
        if self.name.startswith("token"):
            raise CheckpointError(f'name: {self.name!r} begins with "token", which TorchServe takes for its own address; choose another')
        if not re.fullmatch(r"\d+(\.\d+)*", self.version):
            raise CheckpointError(f'version: expected numbers such as "1.0", got {self.version!r}')
        if self.task not in TASKS:
            raise CheckpointError(f"task: expected one of {', '.join(TASKS)}, got {self.task!r}")
        if self.axes not in ("", *AXES):
            raise CheckpointError(f"axes: expected one of {', '.join(AXES)}, got {self.axes!r}")
        check_tensors(self.tensors)
        if self.scaler:
            check_scaler(self.scaler, "scaler")
        if self.scaler and self.tokens:
            raise CheckpointError("scaler, tokens: token ids are not scaled; leave one of the two out")
        if self.distribution and self.tokens:
            raise CheckpointError("distribution, tokens: token ids are not drawn from a distribution of numbers; leave one of the two out")
        if self.features and self.tokens:
            raise CheckpointError("features, tokens: a model takes numeric features or token ids; name one of the two")

    @classmethod
    def read(cls, folder: Path) -> "ModelSpec":
        """Read `model.json` in `folder`. Raises CheckpointError."""
        try:
            document = orjson.loads((folder / "model.json").read_bytes())
            for name in ("features", "outputs", "example"):
                document[name] = tuple(document.get(name, ()))
            return cls(**document)
        except (OSError, ValueError, TypeError) as e:
            raise CheckpointError(f"{folder / 'model.json'}: {e}") from e

    def completed(self, lifted: Lift) -> "ModelSpec":
        """Return the specification with names for unnamed features and outputs. Raises CheckpointError where names and sizes differ."""
        if lifted.tokens != bool(self.tokens):
            takes, say = ("token ids", "give tokens, the vocabulary's size") if lifted.tokens else ("numbers", "leave tokens out")
            raise CheckpointError(f"tokens: the model takes {takes}: {say}")
        columns = lifted.window().shape[-1]
        features = self.features or (() if self.tokens else tuple(f"x{i}" for i in range(columns)))
        outputs = self.outputs or distribution.outputs(self.distribution) or tuple(f"y{i}" for i in range(lifted.width))
        if features and len(features) != columns:
            raise CheckpointError(f"features: {len(features)} names for {columns} input columns (static inputs count as columns)")
        if len(outputs) != lifted.width:
            raise CheckpointError(f"outputs: {len(outputs)} names for {lifted.width} output columns")
        check_names("features", features)
        check_names("outputs", outputs)
        for output, feature in self.feedback.items():
            if output not in outputs or feature not in features:
                raise CheckpointError(f"feedback: {output!r} -> {feature!r} is not an output and a feature of this model")
        completed = replace(self, features=features, outputs=outputs)
        completed.check_calendar()
        distribution.documents(completed.distribution, outputs, completed.feedback)
        return completed

    def check_calendar(self) -> None:
        """Check that the calendar derives features of this model, at a frequency. Raises CheckpointError."""
        if not self.calendar:
            return
        try:
            calendar = Calendar.from_document(self.calendar, self.frequency)
        except ConfigurationError as e:
            raise CheckpointError(str(e)) from e
        for name in calendar.derived:
            if name not in self.features or name in self.feedback.values():
                raise CheckpointError(f"calendar.derived: {name!r} is not a feature of this model, or feeds back")
        if OBSERVED_TIME in self.features and OBSERVED_TIME not in calendar.derived:
            raise CheckpointError(f"features: {OBSERVED_TIME!r} is what observations call their time; give the feature another name")


def check_names(kind: str, names: Sequence[str]) -> None:
    """Check that each column has a name of its own. Raises CheckpointError."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise CheckpointError(f"{kind}: expected a text for each column, got {name!r}")
        if names.count(name) > 1:
            raise CheckpointError(f"{kind}: {name!r} is there twice; give each column a name of its own")


def check_tensors(tensors: Mapping[str, str]) -> None:
    """Check the names of tensors that clients of the Open Inference Protocol use. Raises CheckpointError."""
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f'tensors: expected names such as {{"x": "INPUT", "y": "OUTPUT"}}, got {tensors!r}')
    for tensor, name in tensors.items():
        if tensor not in RENAMED:
            raise CheckpointError(f"tensors: expected names for {' and '.join(RENAMED)}, got one for {tensor!r}")
        if not isinstance(name, str) or not TENSOR_NAME.fullmatch(name) or name in (*OTHER_TENSORS, *(set(RENAMED) - {tensor})):
            raise CheckpointError(
                f"tensors.{tensor}: expected 1 to 64 of the characters A-Z a-z 0-9 _ . : / -, and no name of another tensor, got {name!r}"
            )
    if len(set(tensors.values())) < len(tensors):
        raise CheckpointError(f"tensors: x and y are both called {tensors['x']!r}")
