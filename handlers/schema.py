"""The HTTP contract's request side: bytes in, typed requests out, or an error that names field, value, limit and remedy.

It knows the signature and the limits. It does not know what a session's position is, or how a model runs.
"""

import difflib
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from handlers import state as state_format
from handlers.errors import CellstateError, InvalidInput, MalformedJson, TooLarge, UnknownField
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.state import State

Array = npt.NDArray[Any]

FIELDS = ("inputs", "return", "state", "session", "horizon", "future", "commit")
SESSION_FIELDS = ("id", "step", "action", "to")
ACTIONS = ("describe", "close", "fork", "export", "import")
ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
MAX_STEP = 2**53  # the largest integer that every JSON client keeps exact


@dataclass(frozen=True, slots=True)
class SessionRef:
    """The `session` field: which session, where the client believes it is, and what to do with it."""

    id: str | None = None  # None: the server makes one
    step: int | None = None
    action: str = "step"
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request object. `inputs` is `[T, F]` float32, or `[T]` int64 token ids; `future` is `[n, K]`."""

    inputs: Array | None = None
    wants: tuple[str, ...] = ("prediction",)
    state: State | None = None
    session: SessionRef | None = None
    horizon: int = 0
    future: Array | None = None
    commit: bool = True

    def digest(self) -> bytes:
        """16 bytes that are equal for a request and its retry, and for no other; the position is compared apart from it."""
        head = f"{self.wants}|{self.horizon}".encode()
        if self.session is not None and self.session.action != "step":
            head += f"|{self.session.action}|{self.session.id}".encode()
        parts = [head, *(a.tobytes() for a in (self.inputs, self.future) if a is not None)]
        if self.state is not None:
            parts.append(state_format.pack(self.state))
        lengths = b"".join(len(part).to_bytes(8, "little") for part in parts)
        return hashlib.blake2b(lengths + b"".join(parts), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Body:
    """One HTTP body: its requests in order, each parsed or refused, and whether it came as `instances`."""

    requests: Sequence[Request | CellstateError]
    many: bool = False


@dataclass(frozen=True)
class Parser:
    """Reads bodies for one model under one set of limits."""

    signature: Signature
    limits: Settings
    returns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        named = tuple(entry.output for entry in self.signature.state)
        object.__setattr__(self, "returns", ("prediction", "output", *named, "state"))

    def body(self, data: bytes) -> Body:
        """Parse one body. Never raises for anything a client can send: what is wrong is in the returned requests."""
        try:
            document = self._document(data)
            if "instances" in document:
                return Body([self._instance(item) for item in self._instances(document)], many=True)
            return Body([self.request(document)])
        except CellstateError as e:
            return Body([e])

    def _document(self, data: bytes) -> dict[str, Any]:
        if len(data) > self.limits.max_body:
            raise TooLarge(f"body: {len(data)} bytes, at most {self.limits.max_body}: send fewer steps or instances at a time")
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as e:
            raise MalformedJson(f"body: {e}; send one JSON object in UTF-8 (NaN and Infinity are not JSON)") from e
        if not isinstance(document, dict):
            raise MalformedJson(f'body: expected a JSON object, got {_kind(document)}; for example {{"inputs": [[…]]}}')
        return document

    def _instances(self, document: dict[str, Any]) -> list[Any]:
        _only(document, ("instances",), "body")
        items = document["instances"]
        if not isinstance(items, list) or not items:
            raise InvalidInput(f"instances: expected a list of at least one request object, got {_kind(items)}")
        if len(items) > self.limits.max_instances:
            raise TooLarge(f"instances: {len(items)}, at most {self.limits.max_instances} in one body: send several")
        return items

    def _instance(self, item: Any) -> Request | CellstateError:
        try:
            if not isinstance(item, dict):
                raise InvalidInput(f"instance: expected a request object, got {_kind(item)}")
            return self.request(item)
        except CellstateError as e:
            return e

    def request(self, document: Mapping[str, Any]) -> Request:
        """One request object. Raises RequestError or ModelChanged."""
        _only(document, FIELDS, "request")
        session = self._session(document["session"]) if "session" in document else None
        horizon = self._horizon(document)
        request = Request(
            inputs=self._inputs(document),
            wants=self._wants(document),
            state=self._state(document["state"]) if "state" in document else None,
            session=session,
            horizon=horizon,
            future=self._future(document, horizon),
            commit=_boolean(document, "commit", default=True),
        )
        self._check_together(request)
        return request

    def _check_together(self, request: Request) -> None:
        """Rules that concern more than one field."""
        session, action = request.session, request.session.action if request.session else "step"
        if not self.signature.streaming and (session is not None or request.state is not None):
            raise InvalidInput(
                f"session, state: {self.signature.label} cannot stream ({self.signature.streaming_reason}): send whole sequences as inputs"
            )
        if action == "step" and request.inputs is None:
            raise InvalidInput(f"inputs: missing; expected {self._shape()} (signature {self.signature.label})")
        if action != "step" and (request.inputs is not None or request.horizon):
            raise InvalidInput(f"inputs, horizon: not part of the action {action!r}: send a step of their own")
        if (action == "import") != (request.state is not None) and action != "step":
            raise InvalidInput("state: goes with the action 'import' or with the first step of a session, and 'import' needs it")
        if request.state is not None and session is not None and action == "step" and session.id is not None and session.step != 0:
            raise InvalidInput('state: a session keeps its own; send a state only with "step": 0, which creates the session from it')
        if not request.commit and (session is None or action != "step"):
            raise InvalidInput("commit: false needs a step of a session; a request without one changes nothing anyway")

    def _shape(self) -> str:
        if self.signature.tokens:
            return f"a list of T token ids from 0 to {self.signature.vocabulary - 1}"
        return f"T lists of {len(self.signature.features)} numbers ({', '.join(self.signature.features)})"

    def _inputs(self, document: Mapping[str, Any]) -> Array | None:
        if "inputs" not in document:
            return None
        value = document["inputs"]
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"inputs: expected {self._shape()}, got {_kind(value)} (signature {self.signature.label})")
        if len(value) > self.limits.max_steps:
            raise TooLarge(
                f"inputs: {len(value)} steps, at most {self.limits.max_steps} in one request: cut the sequence, a session carries on"
            )
        if self.signature.tokens:
            return _tokens(value, self.signature)
        return _matrix(value, len(self.signature.features), "inputs", self.signature)

    def _wants(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        value = document.get("return", ["prediction"])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InvalidInput(f"return: expected a list of names out of {', '.join(self.returns)}, got {_kind(value)}")
        for name in value:
            if name not in self.returns:
                raise InvalidInput(f"return: unknown {_shown(name)}; known: {', '.join(self.returns)}")
        return tuple(name for name in self.returns if name in value)

    def _state(self, value: Any) -> State:
        if isinstance(value, str):
            return state_format.from_text(value, self.signature, self.limits.state_key.encode())
        if not isinstance(value, dict):
            raise InvalidInput(f"state: expected the opaque string or an object of arrays, got {_kind(value)}")
        names = tuple(entry.output for entry in self.signature.state)
        _only(value, names, "state")
        missing = [name for name in names if name not in value]
        if missing:
            raise InvalidInput(f"state: {', '.join(missing)} missing; send {' and '.join(names)} as they were returned")
        parts = [self._state_array(value[e.output], e.output, e.rows, e.size) for e in self.signature.state]
        return State(np.concatenate(parts), 0, self.signature.digest)

    def _state_array(self, value: Any, name: str, rows: int, size: int) -> Array:
        if not isinstance(value, list) or len(value) != rows:
            raise InvalidInput(
                f"state.{name}: expected {rows} lists of {size} numbers, got {_kind(value)} (signature {self.signature.label})"
            )
        return _matrix(value, size, f"state.{name}", self.signature, "values").ravel()

    def _session(self, value: Any) -> SessionRef:
        if isinstance(value, str):
            return SessionRef(_id(value, "session"))
        if not isinstance(value, dict):
            raise InvalidInput(f'session: expected an id or an object such as {{"id": "meter-7", "step": 0}}, got {_kind(value)}')
        _only(value, SESSION_FIELDS, "session")
        ref = SessionRef(
            id=_id(value["id"], "session.id") if "id" in value else None,
            step=_integer(value, "step", MAX_STEP, "session.step") if "step" in value else None,
            action=_choice(value.get("action", "step"), ("step", *ACTIONS), "session.action"),
            to=_id(value["to"], "session.to") if "to" in value else None,
        )
        if ref.id is None and (ref.step or ref.action not in ("step", "import")):
            raise InvalidInput("session.id: missing; only a session's first step, or an import, may leave the id to the server")
        if (ref.to is not None) != (ref.action == "fork") or (ref.to is not None and ref.to == ref.id):
            raise InvalidInput("session.to: goes with the action 'fork', which needs it: the id of the new session")
        if ref.action != "step" and ref.step is not None:
            raise InvalidInput(f"session.step: not part of the action {ref.action!r}")
        return ref

    def _horizon(self, document: Mapping[str, Any]) -> int:
        if "horizon" not in document:
            return 0
        horizon = _integer(document, "horizon", MAX_STEP, "horizon")
        if horizon > self.limits.max_horizon:
            raise TooLarge(f"horizon: {horizon}, at most {self.limits.max_horizon}")
        if horizon and not self.signature.feedback:
            raise InvalidInput(f"horizon: {self.signature.label} has no output that feeds back into its inputs; leave it out")
        return horizon

    def _future(self, document: Mapping[str, Any], horizon: int) -> Array | None:
        columns = len(self.signature.future_columns)
        if "future" not in document:
            if horizon and columns:
                names = ", ".join(self.signature.features[i] for i in self.signature.future_columns)
                raise InvalidInput(f"future: missing; a horizon of {horizon} needs {horizon} lists of {columns} numbers ({names})")
            return None
        value = document["future"]
        if not horizon or not columns:
            raise InvalidInput("future: goes with a horizon, for a model with inputs that are known in advance; leave it out")
        if not isinstance(value, list) or len(value) != horizon:
            raise InvalidInput(f"future: expected {horizon} lists of {columns} numbers, one a step of the horizon, got {_kind(value)}")
        return _matrix(value, columns, "future", self.signature)


def _only(document: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in document:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UnknownField(f"{where}: unknown field {_shown(name)}; {hint}")


def _boolean(document: Mapping[str, Any], name: str, default: bool) -> bool:
    value = document.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}: expected true or false, got {_kind(value)}")
    return value


def _integer(document: Mapping[str, Any], name: str, most: int, where: str) -> int:
    value = document[name]
    if type(value) is not int:
        raise InvalidInput(f"{where}: expected an integer, got {_kind(value)}")
    if not 0 <= value <= most:
        raise InvalidInput(f"{where}: expected 0 to {most}, got {value}")
    return value


def _choice(value: Any, known: Sequence[str], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise InvalidInput(f"{where}: expected one of {', '.join(known)}, got {_shown(value)}")
    return value


def _id(value: Any, where: str) -> str:
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise InvalidInput(f"{where}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : @ / + = -, got {_shown(value)}")
    return value


def _matrix(value: list[Any], columns: int, where: str, signature: Signature, noun: str = "features") -> Array:
    """Rows of `columns` JSON numbers -> `[rows, columns]` float32, finite."""
    if columns == 1 and not isinstance(value[0], list):
        value = [[item] for item in value]
    for i, row in enumerate(value):
        if not isinstance(row, list) or len(row) != columns:
            got = len(row) if isinstance(row, list) else _kind(row)
            raise InvalidInput(f"{where}[{i}]: expected {columns} {noun}, got {got} (signature {signature.label})")
    if not set(map(type, itertools.chain.from_iterable(value))) <= {int, float}:  # a bool would pass for 1, a string for its number
        i, j = next((i, j) for i, row in enumerate(value) for j, item in enumerate(row) if type(item) not in (int, float))
        raise InvalidInput(f"{where}[{i}][{j}]: expected a number, got {_kind(value[i][j])}; fill in a measurement that is missing")
    with np.errstate(over="ignore"):
        array = np.array(value, dtype=np.float32)
    if not np.isfinite(array).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise InvalidInput(f"{where}[{i}][{j}]: {value[i][j]} is beyond float32 (3.4e38)")
    return array


def _tokens(value: list[Any], signature: Signature) -> Array:
    """JSON integers -> `[T]` int64 token ids in the vocabulary."""
    for i, item in enumerate(value):
        if type(item) is not int or not 0 <= item < signature.vocabulary:
            raise InvalidInput(
                f"inputs[{i}]: expected a token id from 0 to {signature.vocabulary - 1}, got {_shown(item)} (signature {signature.label})"
            )
    return np.array(value, dtype=np.int64)


def _kind(value: Any) -> str:
    """What a JSON value is, for messages, without repeating its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "an object" if isinstance(value, dict) else "a number"


def _shown(value: Any) -> str:
    """A client's value in a message: short, quoted, escaped."""
    text = ascii(value) if isinstance(value, str | int | float) else _kind(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
