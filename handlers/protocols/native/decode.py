"""The HTTP contract's request side: bytes in, typed requests out, or an error that names field, value, limit and remedy.

It knows the signature and the limits. It does not know what a session's position is, or how a model runs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from handlers.errors import CellstateError, InvalidInput, MalformedJson, TooLarge
from handlers.protocols import validation as values
from handlers.protocols.validation import Array
from handlers.sessions import state as state_format
from handlers.sessions.state import State
from handlers.settings import Settings
from handlers.signature import Signature

FIELDS = ("inputs", "return", "state", "session", "horizon", "future", "commit")
SESSION_FIELDS = ("id", "step", "action", "to", "from")
ACTIONS = ("describe", "close", "fork", "rewind", "export", "import")
MAX_STEP = 2**53  # the largest integer that every JSON client keeps exact


@dataclass(frozen=True, slots=True)
class SessionRef:
    """The `session` field: which session, where the client believes it is, and what to do with it."""

    id: str | None = None  # None: the server makes one
    step: int | None = None
    action: str = "step"
    to: str | None = None
    origin: int | None = None  # of a rewind: where the client believes the session to be


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

    @property
    def action(self) -> str:
        """What it asks, in one word; "unread" of what could not be parsed."""
        return self.session.action if self.session else "unread" if self.inputs is None else "predict"

    @property
    def steps(self) -> int:
        return 0 if self.inputs is None else len(self.inputs)

    def digest(self) -> bytes:
        """16 bytes that are equal for a request and its retry, and for no other; the position is compared apart from it."""
        head = f"{self.wants}|{self.horizon}".encode()
        if self.session is not None and self.session.action != "step":
            head += f"|{self.session.action}|{self.session.id}|{self.session.step}|{self.session.origin}".encode()
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
        if not data:  # also what is left of a body that the host took for a form
            raise MalformedJson("body: empty; send one JSON object, with the header Content-Type: application/json")
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as e:
            raise MalformedJson(f"body: {e}; send one JSON object in UTF-8 (NaN and Infinity are not JSON)") from e
        if not isinstance(document, dict):
            raise MalformedJson(f'body: expected a JSON object, got {values.kind(document)}; for example {{"inputs": [[…]]}}')
        return document

    def _instances(self, document: dict[str, Any]) -> list[Any]:
        values.only(document, ("instances",), "body")
        items = document["instances"]
        if not isinstance(items, list) or not items:
            raise InvalidInput(f"instances: expected a list of at least one request object, got {values.kind(items)}")
        if len(items) > self.limits.max_instances:
            raise TooLarge(f"instances: {len(items)}, at most {self.limits.max_instances} in one body: send several")
        return items

    def _instance(self, item: Any) -> Request | CellstateError:
        try:
            if not isinstance(item, dict):
                raise InvalidInput(f"instance: expected a request object, got {values.kind(item)}")
            return self.request(item)
        except CellstateError as e:
            return e

    def request(self, document: Mapping[str, Any]) -> Request:
        """One request object. Raises RequestError or ModelChanged."""
        values.only(document, FIELDS, "request")
        session = self._session(document["session"]) if "session" in document else None
        horizon = self._horizon(document)
        request = Request(
            inputs=self._inputs(document),
            wants=self._wants(document),
            state=self._state(document["state"]) if "state" in document else None,
            session=session,
            horizon=horizon,
            future=self._future(document, horizon),
            commit=values.boolean(document, "commit", default=True),
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
        return f"T lists of {len(self.signature.features)} numbers ({values.listed(self.signature.features)})"

    def _inputs(self, document: Mapping[str, Any]) -> Array | None:
        if "inputs" not in document:
            return None
        value = document["inputs"]
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"inputs: expected {self._shape()}, got {values.kind(value)} (signature {self.signature.label})")
        if len(value) > self.limits.max_steps:
            raise TooLarge(
                f"inputs: {len(value)} steps, at most {self.limits.max_steps} in one request: cut the sequence, a session carries on"
            )
        self._check_steps(len(value))
        if self.signature.tokens:
            return values.tokens(value, self.signature)
        return values.matrix(value, len(self.signature.features), "inputs", self.signature, limit=self.signature.input_limit)

    def _check_steps(self, steps: int) -> None:
        least, most = self.signature.least_steps, self.signature.most_steps
        if steps < least or (most is not None and steps > most):
            wanted = f"exactly {least}" if most == least else f"at least {least}"
            raise InvalidInput(f"inputs: expected {wanted} steps, got {steps} (signature {self.signature.label})")

    def _wants(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        value = document.get("return", ["prediction"])
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InvalidInput(f"return: expected a list of names out of {', '.join(self.returns)}, got {values.kind(value)}")
        for name in value:
            if name not in self.returns:
                raise InvalidInput(f"return: unknown {values.shown(name)}; known: {', '.join(self.returns)}")
        return tuple(name for name in self.returns if name in value)

    def _state(self, value: Any) -> State:
        if isinstance(value, str):
            return state_format.from_text(value, self.signature, self.limits.state_key.encode())
        if not isinstance(value, dict):
            raise InvalidInput(f"state: expected the opaque string or an object of arrays, got {values.kind(value)}")
        names = tuple(entry.output for entry in self.signature.state)
        values.only(value, names, "state")
        missing = [name for name in names if name not in value]
        if missing:
            raise InvalidInput(f"state: {', '.join(missing)} missing; send {' and '.join(names)} as they were returned")
        parts = [self._state_array(value[e.output], e.output, e.rows, e.size) for e in self.signature.state]
        return State(np.concatenate(parts), 0, self.signature.digest)

    def _state_array(self, value: Any, name: str, rows: int, size: int) -> Array:
        if not isinstance(value, list) or len(value) != rows:
            raise InvalidInput(
                f"state.{name}: expected {rows} lists of {size} numbers, got {values.kind(value)} (signature {self.signature.label})"
            )
        return values.matrix(value, size, f"state.{name}", self.signature, "values").ravel()

    def _session(self, value: Any) -> SessionRef:
        if isinstance(value, str):
            return SessionRef(values.session_id(value, "session"))
        if not isinstance(value, dict):
            raise InvalidInput(f'session: expected an id or an object such as {{"id": "meter-7", "step": 0}}, got {values.kind(value)}')
        values.only(value, SESSION_FIELDS, "session")
        ref = SessionRef(
            id=values.session_id(value["id"], "session.id") if "id" in value else None,
            step=values.integer(value, "step", MAX_STEP, "session.step") if "step" in value else None,
            action=values.choice(value.get("action", "step"), ("step", *ACTIONS), "session.action"),
            origin=values.integer(value, "from", MAX_STEP, "session.from") if "from" in value else None,
            to=values.session_id(value["to"], "session.to") if "to" in value else None,
        )
        if ref.id is None and (ref.step or ref.action not in ("step", "import")):
            raise InvalidInput("session.id: missing; only a session's first step, or an import, may leave the id to the server")
        if (ref.to is not None) != (ref.action == "fork") or (ref.to is not None and ref.to == ref.id):
            raise InvalidInput("session.to: goes with the action 'fork', which needs it: the id of the new session")
        if ref.action not in ("step", "rewind") and ref.step is not None:
            raise InvalidInput(f"session.step: not part of the action {ref.action!r}")
        if (ref.action == "rewind" and ref.step is None) or (ref.action != "rewind" and ref.origin is not None):
            raise InvalidInput("session.step, session.from: a rewind names the step to go back to, and may name the one it comes from")
        return ref

    def _horizon(self, document: Mapping[str, Any]) -> int:
        if "horizon" not in document:
            return 0
        horizon = values.integer(document, "horizon", MAX_STEP, "horizon")
        if horizon > self.limits.max_horizon:
            raise TooLarge(f"horizon: {horizon}, at most {self.limits.max_horizon}")
        if horizon and not self.signature.streaming:
            raise InvalidInput(f"horizon: {self.signature.label} cannot stream ({self.signature.streaming_reason}), so it cannot roll on")
        if horizon and not self.signature.feedback:
            raise InvalidInput(f"horizon: {self.signature.label} has no output that feeds back into its inputs; leave it out")
        return horizon

    def _future(self, document: Mapping[str, Any], horizon: int) -> Array | None:
        columns = len(self.signature.future_columns)
        if "future" not in document:
            if horizon and columns:
                names = values.listed([self.signature.features[i] for i in self.signature.future_columns])
                raise InvalidInput(f"future: missing; a horizon of {horizon} needs {horizon} lists of {columns} numbers ({names})")
            return None
        value = document["future"]
        if not horizon or not columns:
            raise InvalidInput("future: goes with a horizon, for a model with inputs that are known in advance; leave it out")
        if not isinstance(value, list) or len(value) != horizon:
            raise InvalidInput(
                f"future: expected {horizon} lists of {columns} numbers, one a step of the horizon, got {values.kind(value)}"
            )
        return values.matrix(value, columns, "future", self.signature, limit=self.signature.input_limit)
