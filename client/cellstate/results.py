"""What the service answers with: results, sessions, models."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cellstate.arrays import Array, from_json
from cellstate.errors import NotReturned, UnexpectedReply


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as one answer has it."""

    id: str
    step: int  # its position: the number of steps it has consumed
    generation: int | None = None  # the number of its rewinds; None from a service that does not count them
    replayed: bool = False  # the request had been applied before, and this is that answer again
    closed: bool = False
    rewarmed: bool = False  # the state was rebuilt from the session's recorded inputs by another model version
    rebuilt: str | None = None  # how close to the stream's own: "exact within the tolerance", "within 0.0001" of the scale, or "unknown"
    expires_at: datetime | None = None
    created_at: datetime | None = None  # of `describe`
    last_step: int | None = None  # of `describe`: the position at which the last request began
    model_digest: str | None = None  # of `describe`: the model that made the state
    rewarm: str | None = None  # of `describe`: how many inputs the session has to be rebuilt from, or why it keeps none
    time: str | None = None  # of `describe`: of the last step, in ISO 8601; of a stream that has times
    scores: Mapping[str, Any] | None = None  # of `describe`: of its own predictions; of a calibrated model, or one of distributions

    @classmethod
    def parse(cls, value: Any) -> "SessionInfo":
        """Raises UnexpectedReply when this is no `session` object of the API."""
        try:
            known = {name: value[name] for name in cls.__slots__ if name in value}
            known |= {name: datetime.fromisoformat(known[name]) for name in ("expires_at", "created_at") if name in known}
            return cls(**known)
        except (TypeError, ValueError) as e:
            raise UnexpectedReply(f"expected a session object, got {value!r:.200}") from e


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One prediction, forecast or state. Every field raises NotReturned unless it was asked for.

    Arrays are NumPy float32 arrays, or nested lists where NumPy is not installed. `document` is the whole answer as it came.
    """

    document: Mapping[str, Any]

    def __getitem__(self, name: str) -> Array:
        """The array of that name, such as a state tensor of the model's own naming."""
        return from_json(self._field(name))

    @property
    def prediction(self) -> Array:
        """`[O]`, or `[T, O]` of a model that predicts at every step."""
        return self["prediction"]

    @property
    def forecast(self) -> Array:
        """`[horizon, O]`; row 0 is the prediction."""
        return self["forecast"]

    @property
    def intervals(self) -> dict[int, tuple[Array, Array]]:
        """Lower and upper bounds of the forecast, `[horizon, O]` each, by level in percent."""
        fields = self._field("intervals")
        return {int(level): (from_json(bounds["lower"]), from_json(bounds["upper"])) for level, bounds in fields.items()}

    @property
    def samples(self) -> Array:
        """The sampled paths of the forecast, `[paths, horizon, P]`; of a model that predicts distributions."""
        return self["samples"]

    @property
    def label(self) -> str | list[str]:
        """The name of the class, or one for each step of a model that predicts at every step; of a classifier."""
        label: str | list[str] = self._field("label")
        return label

    @property
    def probabilities(self) -> Array:
        """The probability of each class, `[O]`, or `[T, O]` of a model that predicts at every step; of a classifier."""
        return self["probabilities"]

    @property
    def times(self) -> list[str]:
        """The times of the forecast, or of the prediction, in ISO 8601; of a stream that has times."""
        return list(self._field("times"))

    @property
    def output(self) -> Array:
        """The top layer's activation at every step, `[T, D*P]`."""
        return self["output"]

    @property
    def h_n(self) -> Array:
        """The hidden state of all layers after the last step, `[L*D, P]`."""
        return self["h_n"]

    @property
    def c_n(self) -> Array:
        """The cell state of all layers after the last step, `[L*D, H]`."""
        return self["c_n"]

    @property
    def state(self) -> str:
        """The whole state as one opaque string, to be sent as `state` with the next request."""
        return str(self._field("state"))

    @property
    def imputed(self) -> int:
        """How many missing measurements of the inputs the model's own predictions stood in for."""
        return int(self.document.get("imputed", 0))

    @property
    def session(self) -> SessionInfo:
        """Where the session is after the request."""
        return SessionInfo.parse(self._field("session"))

    @property
    def model(self) -> ModelInfo:
        """The model and version that answered."""
        model = self._field("model")
        return ModelInfo(str(model["name"]), str(model["version"]))

    def _field(self, name: str) -> Any:
        try:
            return self.document[name]
        except KeyError:
            raise NotReturned(f"{name}: not in the answer, which has {', '.join(self.document)}") from None
