"""Decodes steps of one observation each, as the meters of a fleet send them, straight into typed objects.

What is in any other form, or wrong, is for `decode.Parser` to look at, as with `usual`.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.json import Decoder

from handlers.engine.request import PREDICTION_ALONE, Request
from handlers.errors import InvalidInput, RequestError
from handlers.forecasting.observations import Timeline
from handlers.protocols import validation
from handlers.protocols.native import usual
from handlers.protocols.rules import RequestRules
from handlers.sessions.reference import StepRef

FIELD = b'"observations"'
TIME = "time"


class ObservedStep(Struct, forbid_unknown_fields=True):
    """A request object with one observation, which has a time and a number for each name."""

    observations: list[Any]
    session: StepRef | str


class UsualObservations:
    """Decodes for one model, whose observations have the `columns`."""

    def __init__(self, timeline: Timeline, columns: tuple[int, ...], limit: float) -> None:
        self._timeline, self._columns, self._limit = timeline, columns, limit
        names = timeline.names(columns)
        renamed = {f"v{i}": name for i, name in enumerate(names)}
        fields = [(TIME, str), *[(field, float) for field in renamed]]
        observation: Any = msgspec.defstruct("Observation", fields, rename=renamed, forbid_unknown_fields=True)
        step: Any = msgspec.defstruct("Step", [("observations", list[observation])], bases=(ObservedStep,))
        instances: Any = msgspec.defstruct("Instances", [("instances", list[step])], forbid_unknown_fields=True)
        self._one, self._many = Decoder(step), Decoder(instances)
        self._values = attrgetter(TIME, *renamed)

    @classmethod
    def of(cls, rules: RequestRules, timeline: Timeline | None) -> "UsualObservations | None":
        """Return what decodes for a model; None for one without a calendar, or of which more is to be checked than numbers and times."""
        if timeline is None or rules.columns or not rules.signature.streaming:
            return None
        try:
            rules.check_steps(1)
        except RequestError:
            return None
        columns = (*timeline.fed, *timeline.given)
        return cls(timeline, columns, rules.signature.input_limit) if _are_plain(timeline.names(columns)) else None

    def read(self, body: bytes) -> tuple[list[ObservedStep], bool] | None:
        """Decode a body into its request objects, and whether they came as `instances`; None where it is in any other form.

        A colon belongs to a field, a time or an id, as in `usual.read`.
        """
        if FIELD not in body or b"\\" in body or b"null" in body:
            return None
        is_batch = b'"instances"' in body
        try:
            steps: list[ObservedStep] = self._many.decode(body).instances if is_batch else [self._one.decode(body)]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        lists = [step.observations for step in steps]
        if set(map(len, lists)) != {1}:
            return None
        fields = is_batch + len(steps) * (2 + len(self._columns)) + usual.colons_of([step.session for step in steps])
        times = "".join([observations[0].time for observations in lists]).count(":")
        return (steps, is_batch) if body.count(b":") == fields + times else None

    def requests(self, steps: Sequence[ObservedStep]) -> list[Request] | None:
        """Return the requests of steps as `read` gives them; None where something is wrong with one of them."""
        if not steps:
            return []
        refs = [_ref(step) for step in steps]
        rows = list(map(self._values, [step.observations[0] for step in steps]))
        numbers = validation.in_range([value for row in rows for value in row[1:]], self._limit)
        if numbers is None or not validation.are_session_ids([ref.id for ref in refs]):
            return None
        try:
            readings = {text: self._timeline.calendar.parse(text, TIME) for text in {row[0] for row in rows}}
        except InvalidInput:
            return None
        x = np.zeros((len(rows), 1, len(self._timeline.features)), np.float32)
        x[:, 0, self._columns] = numbers.reshape(len(rows), -1)
        times = np.array([readings[row[0]] for row in rows], np.int64).reshape(len(rows), 1, 2)
        return [
            Request(inputs, PREDICTION_ALONE, None, ref, is_usual_step=True, times=time)
            for inputs, ref, time in zip(x, refs, times, strict=True)
        ]


def _are_plain(names: Sequence[str]) -> bool:
    """Whether there are names, none of which is that of the time, or has a colon in it or what JSON escapes."""
    return bool(names) and TIME not in names and not any(c in ':"\\' or c < " " for name in names for c in name)


def _ref(step: ObservedStep) -> StepRef:
    return StepRef(step.session) if isinstance(step.session, str) else step.session
