"""Observations by name and time, turned into the input rows of one model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handlers.arrays import Floats
from handlers.errors import ConfigurationError, InvalidInput
from handlers.forecasting.calendar import Calendar
from handlers.signature import Signature

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """The calendar of a model, and which of its input columns come from where: fed back, derived from the time, or given by the client."""

    calendar: Calendar
    features: tuple[str, ...]
    fed: tuple[int, ...]
    derived: tuple[int, ...]
    given: tuple[int, ...]
    future_columns: tuple[int, ...]

    @classmethod
    def of(cls, signature: Signature) -> "Timeline | None":
        """Return the timeline of a model, None where it declares no calendar.

        Raises:
            ConfigurationError: the calendar is wrong, or derives what is no feature or feeds back.
        """
        if not signature.calendar:
            return None
        calendar = Calendar.from_document(signature.calendar, signature.frequency)
        fed = tuple(signature.fed_features)
        for name in calendar.derived:
            if name not in signature.features or signature.features.index(name) in fed:
                raise ConfigurationError(f"calendar.derived: {name!r} is not a feature of {signature.label}, or feeds back")
        derived = tuple(signature.features.index(name) for name in calendar.derived)
        given = tuple(i for i in signature.future_columns if i not in derived)
        return cls(calendar, signature.features, fed, derived, given, signature.future_columns)

    def names(self, columns: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names of input columns."""
        return tuple(self.features[i] for i in columns)

    def place(self, values: Floats, readings: Times, last: int | None, max_gap: int, lines: Sequence[str] = ()) -> tuple[Floats, int]:
        """Return the input rows `[T, F]` of N observations, and the time of the last one.

        `values` is `[N, F]`, NaN where a value is missing, and anything in derived columns. `readings` `[N, 2]` are the times as
        `Calendar.parse` returns them: of a time with two, the first that is later than the time before. `last` is the time of the stream so
        far. Steps between observations become rows of missing values. `lines` say where the times stand, if they are from a file.

        Raises:
            InvalidInput: a time does not follow the one before, or a gap is refused or longer than `max_gap` steps.
        """
        times: list[int] = []
        observed = []  # the row of each observation
        for i, (first, second) in enumerate(readings.tolist()):
            time = first if last is None or first > last else second
            try:
                gap = 0 if last is None else self._gap(time, last, max_gap, lines[i] if lines else f"observations[{i}].time")
            except InvalidInput as e:
                raise e if first == second else InvalidInput(f"{e}. {self.calendar.twice(first, second)}") from e
            if gap and last is not None:
                times += self.calendar.following(last, gap)
            observed.append(len(times))
            times.append(time)
            last = time
        rows = np.full((len(times), len(self.features)), np.nan, np.float32)
        rows[observed] = values
        if self.derived:
            rows[:, self.derived] = self.calendar.features(times)
        return rows, times[-1]

    def _gap(self, time: int, last: int, max_gap: int, where: str) -> int:
        """Return how many steps lie between two times. Raises InvalidInput where the second does not follow, or too late."""
        calendar = self.calendar
        ahead, rest = divmod(time - last, calendar.step)
        shown, before = calendar.format(time), calendar.format(last)
        if time == last:
            raise InvalidInput(
                f"{where}: {shown} was observed already; leave the duplicate out. A retry repeats the session's step, not only the time"
            )
        if time < last:
            raise InvalidInput(
                f"{where}: {shown} is late: the stream is at {before}. Leave it out, or rewind the session to the step before it and "
                "send what was observed since then again"
            )
        if rest:
            raise InvalidInput(f"{where}: {shown} is not a multiple of {calendar.frequency} after {before}: round times to the frequency")
        if ahead > 1:
            self._check_gap(ahead - 1, max_gap, time, last, where)
        return ahead - 1

    def _check_gap(self, gap: int, max_gap: int, time: int, last: int, where: str) -> None:
        calendar = self.calendar
        missing = f"{where}: {gap} steps of {calendar.frequency} are missing between {calendar.format(last)} and {calendar.format(time)}"
        remedy = "send an observation for each, with null where nothing was measured"
        if calendar.gaps == "refuse":
            raise InvalidInput(f"{missing}, and this model takes no gaps: {remedy}")
        if self.given:
            raise InvalidInput(f"{missing}, and {', '.join(self.names(self.given))} cannot be filled: {remedy}")
        if gap > max_gap:
            raise InvalidInput(f"{missing}, at most {max_gap} are filled (max_imputed): start another stream after the gap")

    def future(self, time: int, horizon: int, given: Floats | None) -> Floats:
        """Return the inputs known in advance of the `horizon` steps after `time`, `[horizon, K]`; `given` is `[horizon, K']`."""
        rows = np.zeros((horizon, len(self.features)), np.float32)
        if self.derived:
            rows[:, self.derived] = self.calendar.features(self.calendar.following(time, horizon))
        if given is not None:
            rows[:, self.given] = given
        known: Floats = rows[:, self.future_columns]
        return known
