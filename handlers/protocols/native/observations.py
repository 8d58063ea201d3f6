"""Decodes `observations`: objects of a time and named values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handlers.arrays import Floats
from handlers.errors import InvalidInput
from handlers.forecasting.observations import Timeline, Times
from handlers.protocols import validation
from handlers.protocols.rules import RequestRules
from handlers.protocols.validation import json_type


@dataclass(slots=True)
class Observed:
    """N observations, decoded."""

    inputs: Floats  # [N, F]: NaN where a value is missing, zeros in derived columns
    missing: int  # NaN among the inputs
    times: Times  # [N, 2], the first and last reading of each time
    known_in_advance: tuple[int, ...]  # the feature columns of `future`


@dataclass(frozen=True)
class ObservationParser:
    """Decodes the observations of one model."""

    rules: RequestRules
    timeline: Timeline | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeline", Timeline.of(self.rules.signature))

    def read(self, document: Mapping[str, Any]) -> Observed:
        """Decode the field `observations` of a request.

        Raises:
            RequestError: the model has no calendar, or an observation is wrong.
        """
        timeline, value, label = self.timeline, document["observations"], self.rules.signature.label
        if timeline is None:
            raise InvalidInput(f"observations: {label} declares no calendar, so it knows no times: send inputs")
        if "inputs" in document:
            raise InvalidInput("inputs, observations: one or the other")
        names = timeline.names((*timeline.fed, *timeline.given))
        if not isinstance(value, list) or not value:
            example = ", ".join(f'"{name}": …' for name in ("time", *names))
            raise InvalidInput(f"observations: expected a list such as [{{{example}}}], got {json_type(value)} (signature {label})")
        self.rules.check_steps(len(value))
        rows = [self._row(item, f"observations[{i}]", timeline, names) for i, item in enumerate(value)]
        times = [timeline.calendar.parse(item["time"], f"observations[{i}].time") for i, item in enumerate(value)]
        inputs, missing = validation.measurements(rows, self.rules.signature, "observations")
        return Observed(inputs, missing, np.array(times, np.int64), timeline.given)

    def _row(self, item: Any, where: str, timeline: Timeline, names: tuple[str, ...]) -> list[Any]:
        """Return the F values of one observation, None where one is missing."""
        if not isinstance(item, dict):
            raise InvalidInput(f"{where}: expected an object with time, {', '.join(names)}, got {json_type(item)}")
        validation.reject_unknown_fields(item, ("time", *names), where)
        if not isinstance(item.get("time"), str):
            raise InvalidInput(f"{where}.time: expected a time such as 2018-09-29T23:00:00, got {json_type(item.get('time'))}")
        row: list[Any] = [0] * len(timeline.features)
        for column, name in zip((*timeline.fed, *timeline.given), names, strict=True):
            row[column] = item.get(name)
            if row[column] is not None and type(row[column]) not in validation.NUMBERS:
                raise InvalidInput(f"{where}.{name}: expected a number or null, got {json_type(row[column])}")
            if row[column] is None and column in timeline.given:
                raise InvalidInput(f"{where}.{name}: missing; only {', '.join(timeline.names(timeline.fed))} may be left out or null")
        return row
