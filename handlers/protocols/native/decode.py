"""Decodes bodies of the native protocol: bytes in; typed requests out, or an error that names field, value, limit and remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from msgspec import to_builtins

from handlers.arrays import Array, Floats
from handlers.engine.request import PREDICTION_ALONE, SAMPLES, Request
from handlers.errors import CellstateError, InvalidInput, MalformedJson
from handlers.protocols import validation
from handlers.protocols.native import usual
from handlers.protocols.native.observations import ObservationParser
from handlers.protocols.native.usual import UsualRequest
from handlers.protocols.native.usual_observations import ObservedStep, UsualObservations
from handlers.protocols.rules import RequestRules
from handlers.protocols.validation import json_type
from handlers.sessions import state as state_format
from handlers.sessions.reference import NAMED_ACTIONS, Action, SessionRef, StepRef
from handlers.sessions.state import State
from handlers.settings import Settings
from handlers.signature import Signature

FIELDS = ("inputs", "observations", "return", "state", "session", "horizon", "future", "levels", "paths", "commit")
USUAL_FIELDS = frozenset({"inputs", "observations", "return", "session"})
SESSION_FIELDS = ("id", "step", "action", "to", "from", "generation")
Read = tuple[Sequence[Any], bool]  # the request objects of a body, or the error of the body, and whether they came as `instances`
ACTIONS = tuple(action.value for action in (Action.STEP, *NAMED_ACTIONS))


@dataclass(frozen=True)
class Parser:
    """Decodes bodies for one model under one set of limits."""

    signature: Signature
    limits: Settings
    rules: RequestRules = field(init=False)
    observations: ObservationParser = field(init=False)
    usual_observations: UsualObservations | None = field(init=False)  # None where no form is usual
    returns: tuple[str, ...] = field(init=False)
    is_usual: bool = field(init=False)  # whether inputs are lists of numbers in lists, one a step

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", RequestRules(self.signature, self.limits))
        object.__setattr__(self, "observations", ObservationParser(self.rules))
        object.__setattr__(self, "usual_observations", UsualObservations.of(self.rules, self.observations.timeline))
        object.__setattr__(self, "returns", self.rules.returns)
        object.__setattr__(self, "is_usual", not self.signature.tokens)

    def bodies(self, bodies: Sequence[bytes]) -> Sequence[tuple[Sequence[Request | CellstateError], bool]]:
        """Decode the bodies of a batch, each into its requests and whether they came as `instances`.

        The numbers of all requests become parts of one array. Raises nothing that a client can cause.
        """
        read = [self._read(body) for body in bodies]
        if self.usual_observations is not None:
            read = self._with_observations(self.usual_observations, bodies, read)
        items = [item for parts, _ in read for item in parts]
        if set(map(type, items)) == {Request}:
            return read
        arrays = self._matrices(items)
        steps: Sequence[Request | CellstateError] | None = self._usual_steps(items, arrays)
        requests = iter(steps or list(map(self._decode, items, arrays)))
        return [(list(islice(requests, len(parts))), is_batch) for parts, is_batch in read]

    def body(self, data: bytes) -> tuple[Sequence[Request | CellstateError], bool]:
        """Decode one body as `bodies` does."""
        return self.bodies([data])[0]

    def _read(self, data: bytes) -> Read:
        """Parse one body."""
        try:
            self.rules.check_body(len(data))
            if self.usual_observations is not None and (observed := self.usual_observations.read(data)) is not None:
                self.rules.check_instances(len(observed[0]))
                return observed
            if self.is_usual and (found := usual.read(data)) is not None and found[0]:
                self.rules.check_instances(len(found[0]))
                return found
        except CellstateError as e:
            return [e], False
        return self._documents(data)

    def _documents(self, data: bytes) -> Read:
        """Parse one body in any form, as `_read` does."""
        try:
            document = self._document(data)
            return (self._instances(document), True) if "instances" in document else ([document], False)
        except CellstateError as e:
            return [e], False

    def _with_observations(self, usual: UsualObservations, bodies: Sequence[bytes], read: Sequence[Read]) -> list[Read]:
        """Return what was read of the bodies with requests for the steps of observations; where one of those is wrong with documents."""
        are_observed = [isinstance(parts[0], ObservedStep) for parts, _ in read]
        steps = [step for (parts, _), is_observed in zip(read, are_observed, strict=True) if is_observed for step in parts]
        requests = usual.requests(steps)
        if requests is None:
            both = zip(bodies, read, are_observed, strict=True)
            return [self._documents(body) if is_observed else found for body, found, is_observed in both]
        each = iter(requests)
        return [
            (list(islice(each, len(parts))) if is_observed else parts, is_batch)
            for (parts, is_batch), is_observed in zip(read, are_observed, strict=True)
        ]

    def _document(self, data: bytes) -> dict[str, Any]:
        document = validation.parse_json(data)
        if not isinstance(document, dict):
            raise MalformedJson(f'body: expected a JSON object, got {json_type(document)}; for example {{"inputs": [[…]]}}')
        return document

    def _instances(self, document: dict[str, Any]) -> list[Any]:
        items = document["instances"]
        if items is None and len(document) > 1:
            raise InvalidInput("instances: null beside other fields: leave it out to send one request, or send a list of request objects")
        validation.reject_unknown_fields(document, ("instances",), "body")
        if not isinstance(items, list) or not items:
            raise InvalidInput(f"instances: expected a list of at least one request object, got {json_type(items)}")
        self.rules.check_instances(len(items))
        return items

    def _matrices(self, items: Sequence[Any]) -> Sequence[Floats | None]:
        """Return the inputs of all request objects as parts of one array; None for those that must be decoded alone.

        That is all of them as soon as one holds anything but numbers in the model's range.
        """
        values = [item.inputs if type(item) is UsualRequest else item.get("inputs") if type(item) is dict else None for item in items]
        usual = [value for value in values if type(value) is list and value]
        if self.signature.tokens or not usual:
            return [None] * len(items)
        try:
            for steps in set(map(len, usual)):
                self.rules.check_steps(steps)
        except CellstateError:
            return [None] * len(items)
        arrays = validation.matrices(usual, len(self.signature.features), self.signature.input_limit)
        if arrays is None or len(arrays) == len(items):
            return arrays or [None] * len(items)
        parts = iter(arrays)
        return [next(parts) if type(value) is list and value else None for value in values]

    def _decode(self, item: Any, inputs: Floats | None) -> Request | CellstateError:
        if isinstance(item, (CellstateError, Request)):
            return item
        try:
            if type(item) is UsualRequest:
                return self._usual_request(item, inputs) if inputs is not None else self.request(to_builtins(item))
            if not isinstance(item, dict):
                raise InvalidInput(f"instance: expected a request object, got {json_type(item)}")
            return self.request(item, inputs)
        except CellstateError as e:
            return e

    def _usual_steps(self, items: Sequence[Any], arrays: Sequence[Floats | None]) -> list[Request] | None:
        """Return the requests of steps that have nothing but numbers and a session, which is all there is to check; None for any others."""
        if self.rules.columns or not self.signature.streaming:
            return None
        found = [item.session for item in items if type(item) is UsualRequest and item.returns is None]
        refs = [StepRef(ref) if isinstance(ref, str) else ref for ref in found if ref is not None]
        if len(refs) < len(items) or not validation.are_session_ids([ref.id for ref in refs]):
            return None
        steps = [Request(x, PREDICTION_ALONE, None, ref, is_usual_step=True) for x, ref in zip(arrays, refs, strict=True) if x is not None]
        return steps if len(steps) == len(items) else None

    def _usual_request(self, item: UsualRequest, inputs: Array) -> Request:
        ref = StepRef(item.session) if isinstance(item.session, str) else item.session
        if ref is not None:
            validation.session_id(ref.id, "session" if item.session is ref.id else "session.id")
            self.rules.check_session(ref)
        request = Request(inputs, PREDICTION_ALONE, None, ref)
        if item.returns is not None:
            request.returns = self._returns(item.returns)
            request.paths = self.rules.paths(None, SAMPLES in request.returns, 0)
        request.is_usual_step = ref is not None and request.returns == PREDICTION_ALONE
        self.rules.check(request)
        return request

    def request(self, document: Mapping[str, Any], inputs: Array | None = None) -> Request:
        """Decode one request object; `inputs` are its inputs where they are decoded already.

        Raises:
            RequestError: a field is wrong, or fields do not go together.
            ModelChanged: the state belongs to another model.
        """
        validation.reject_unknown_fields(document, FIELDS, "request")
        session = self._session(document["session"]) if "session" in document else None
        horizon = self._horizon(document) if "horizon" in document else 0
        missing, times, known = 0, None, None
        if inputs is None and "inputs" in document:
            inputs, missing = self._inputs(document["inputs"])
        if "observations" in document:
            observed = self.observations.read(document)
            inputs, missing, times, known = observed.inputs, observed.missing, observed.times, observed.known_in_advance
        returns = self._returns(document["return"]) if "return" in document else PREDICTION_ALONE
        levels = self._levels(document["levels"], horizon) if "levels" in document else ()
        request = Request(
            inputs,
            returns,
            self._state(document["state"]) if "state" in document else None,
            session,
            horizon,
            self._future(document, horizon, known) if horizon or "future" in document else None,
            validation.boolean(document, "commit", default=True) if "commit" in document else True,
            missing=missing,
            times=times,
            levels=levels,
            paths=self._paths(document, bool(levels) or SAMPLES in returns, horizon),
        )
        self.rules.check(request)
        is_step = session is not None and session.id is not None and session.action is Action.STEP and returns == PREDICTION_ALONE
        request.is_usual_step = is_step and not missing and USUAL_FIELDS.issuperset(document)
        return request

    def _inputs(self, value: Any) -> tuple[Array, int]:
        """Return the inputs, and how many of them are missing."""
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"inputs: expected {self.rules.shape()}, got {json_type(value)} (signature {self.signature.label})")
        self.rules.check_steps(len(value))
        if self.signature.tokens:
            return validation.tokens(value, self.signature), 0
        return validation.measurements(value, self.signature)

    def _returns(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise InvalidInput(f"return: expected a list of names out of {', '.join(self.returns)}, got {json_type(value)}")
        for name in value:
            if name not in self.returns:
                raise InvalidInput(f"return: unknown {validation.short_repr(name)}; known: {', '.join(self.returns)}")
        return tuple(name for name in self.returns if name in value)

    def _state(self, value: Any) -> State:
        if isinstance(value, str):
            return state_format.from_text(value, self.signature, self.limits.state_key.encode())
        if not isinstance(value, dict):
            raise InvalidInput(f"state: expected the opaque string or an object of arrays, got {json_type(value)}")
        names = tuple(entry.output for entry in self.signature.state)
        validation.reject_unknown_fields(value, names, "state")
        missing = [name for name in names if name not in value]
        if missing:
            raise InvalidInput(f"state: {', '.join(missing)} missing; send {' and '.join(names)} as they were returned")
        parts = [self._state_array(value[e.output], e.output, e.rows, e.size) for e in self.signature.state]
        return State(np.concatenate(parts), 0, self.signature.digest)

    def _state_array(self, value: Any, name: str, rows: int, size: int) -> Floats:
        if not isinstance(value, list) or len(value) != rows:
            raise InvalidInput(
                f"state.{name}: expected {rows} lists of {size} numbers, got {json_type(value)} (signature {self.signature.label})"
            )
        return validation.matrix(value, size, f"state.{name}", self.signature, "values").ravel()

    def _session(self, value: Any) -> SessionRef:
        if isinstance(value, str):
            return SessionRef(validation.session_id(value, "session"))
        if not isinstance(value, dict):
            raise InvalidInput(f'session: expected an id or an object such as {{"id": "meter-7", "step": 0}}, got {json_type(value)}')
        validation.reject_unknown_fields(value, SESSION_FIELDS, "session")
        ref = SessionRef(
            validation.session_id(value["id"], "session.id") if "id" in value else None,
            validation.integer(value, "step", "session.step") if "step" in value else None,
            Action(validation.choice(value["action"], ACTIONS, "session.action")) if "action" in value else Action.STEP,
            validation.session_id(value["to"], "session.to") if "to" in value else None,
            validation.integer(value, "from", "session.from") if "from" in value else None,
            validation.integer(value, "generation", "session.generation") if "generation" in value else None,
        )
        self.rules.check_session(ref)
        return ref

    def _horizon(self, document: Mapping[str, Any]) -> int:
        horizon = validation.integer(document, "horizon", "horizon")
        self.rules.check_horizon(horizon)
        return horizon

    def _levels(self, value: Any, horizon: int) -> tuple[int, ...]:
        if not isinstance(value, list) or not value or not all(type(level) is int for level in value):
            raise InvalidInput(f"levels: expected a list of percentages such as [80, 95], got {json_type(value)}")
        self.rules.check_levels(value, horizon)
        return tuple(value)

    def _paths(self, document: Mapping[str, Any], is_sampled: bool, horizon: int) -> int:
        paths = validation.integer(document, "paths", "paths") if "paths" in document else None
        return self.rules.paths(paths, is_sampled, horizon)

    def _future(self, document: Mapping[str, Any], horizon: int, known: Sequence[int] | None) -> Floats | None:
        """Return the inputs known in advance, in the feature columns `known`, or in all that do not feed back."""
        if "future" not in document:
            self.rules.check_future(None, horizon, "", known)
            return None
        value = document["future"]
        self.rules.check_future(len(value) if isinstance(value, list) else -1, horizon, json_type(value), known)
        columns = len(self.signature.future_columns if known is None else known)
        return validation.matrix(value, columns, "future", self.signature, limit=self.signature.input_limit)
