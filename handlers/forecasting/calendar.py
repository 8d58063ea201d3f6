"""Times of a stream, and the input features that follow from a time: cycles and holidays. Training and serving use this one implementation.

A time is an integer of seconds. Where a calendar has a time zone and a frequency below a day these are seconds since the epoch: a step is
always equally long, and an hour that occurs twice is two steps. Otherwise they are seconds of the wall clock, counted as if in UTC: a day
is a step whether it has 23, 24 or 25 hours, and without a time zone there is no daylight saving.
"""

import math
import re
from calendar import isleap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import numpy as np

from handlers.arrays import Floats
from handlers.errors import ConfigurationError, InvalidInput

UNITS = {"s": 1, "min": 60, "h": 3_600, "D": 86_400, "d": 86_400, "W": 604_800}
DAY = 86_400
YEARS = (1900, 2200)
LATEST = 253_402_000_000  # seconds: the last days of the year 9999, in which a stream without end stays
CYCLES = ("minute", "hour", "weekday", "day_of_year", "month")
FORMS = ("sin", "cos", "number")
GAPS = ("fill", "refuse")
ABBREVIATIONS = {  # of the tz database, that say of no place whether and when its clocks are set
    "EST": "five hours behind UTC all year, which clocks in America/New_York show in winter only",
    "MST": "seven hours behind UTC all year, as in America/Phoenix, and not for America/Denver",
    "HST": "ten hours behind UTC, as in Pacific/Honolulu",
    "CET": "the time of many places, such as Europe/Berlin",
    "MET": "the time of many places, such as Europe/Berlin",
    "EET": "the time of many places, such as Europe/Athens",
    "WET": "the time of many places, such as Europe/Lisbon",
    "localtime": "whatever zone a machine is in",
}


@dataclass(frozen=True, slots=True)
class Derived:
    """One feature that follows from the time: of which quantity, in which form, and of the time how many steps later.

    `of` is one of `CYCLES` or "holiday". A cycle is the sine or cosine of its angle, or the plain number; the hour has its minutes as a
    fraction, Monday is weekday 0, and days and months of the year are counted from 0. A holiday is 1 within the day and 0 outside.
    """

    of: str
    form: str = "number"
    shift: int = 0  # steps
    country: str = ""
    subdivision: str = ""
    without: tuple[str, ...] = ()  # names of holidays that do not count

    def value(self, moment: datetime) -> float:
        """Return the feature at a wall clock's time."""
        if self.of == "holiday":
            return float(moment.date() in _holidays(self.country, self.subdivision, self.without, moment.year))
        amount, period = _cycle(self.of, moment)
        if self.form == "number":
            return amount
        angle = 2 * math.pi * amount / period
        return math.sin(angle) if self.form == "sin" else math.cos(angle)


@dataclass(frozen=True)
class Calendar:
    """The times and derived features of one model. `derived` maps feature names, `frequency` is such as "15min", "1h" or "1D".

    Raises:
        ConfigurationError: frequency, time zone, gaps or a derived feature are none that this release knows.
    """

    frequency: str
    timezone: str = ""
    gaps: str = "fill"  # how a gap between observations is met: filled as missing, or refused
    derived: Mapping[str, Derived] = field(default_factory=dict)
    step: int = field(init=False)  # seconds between two observations
    _zone: ZoneInfo | None = field(init=False, repr=False, compare=False)
    _row: Callable[[int], tuple[float, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.gaps not in GAPS:
            raise ConfigurationError(f"calendar.gaps: expected one of {', '.join(GAPS)}, got {self.gaps!r}")
        for name, feature in self.derived.items():
            _check_derived(name, feature)
        object.__setattr__(self, "step", _seconds(self.frequency))
        object.__setattr__(self, "_zone", _zone(self.timezone))
        object.__setattr__(self, "_row", lru_cache(maxsize=8_192)(self._computed))  # the streams of a fleet share their hours

    @classmethod
    def from_document(cls, document: Mapping[str, Any], frequency: str) -> "Calendar":
        """Read the `calendar` of `model.json` or `signature.json`. Raises ConfigurationError."""
        try:
            derived = {name: _derived(feature) for name, feature in document.get("derived", {}).items()}
            return cls(frequency, derived=derived, **{name: value for name, value in document.items() if name != "derived"})
        except (TypeError, AttributeError) as e:
            raise ConfigurationError(f"calendar: cannot be read: {e}") from e

    def parse(self, text: str, where: str) -> tuple[int, int]:
        """Return the first and the last reading of an ISO 8601 time: they differ where clocks are set back and no offset is given.

        Raises:
            InvalidInput: it is no time, or none of this calendar.
        """
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as e:
            raise InvalidInput(f"{where}: expected a time such as 2018-09-29T23:00:00, got {text[:40]!r}") from e
        if moment.microsecond or not YEARS[0] <= moment.year <= YEARS[1]:
            raise InvalidInput(f"{where}: expected whole seconds in the years {YEARS[0]} to {YEARS[1]}, got {text[:40]!r}")
        if self._zone is None:
            if moment.tzinfo is not None:
                raise InvalidInput(f"{where}: {text!r} has an offset, and this model's times are without a time zone: leave it out")
            return (_wall(moment),) * 2
        if moment.tzinfo is not None:
            return (self._time(moment.astimezone(self._zone)),) * 2
        first, last = (self._time(moment.replace(tzinfo=self._zone, fold=fold)) for fold in (0, 1))
        if self._local(min(first, last)) != moment and self._local(max(first, last)) != moment:
            raise InvalidInput(
                f"{where}: {text!r} does not occur in {self.timezone}: clocks are set forward over it. Send the time that clocks show, "
                f"{self.format(self._time(moment.replace(tzinfo=self._zone)))}, or the offset of the clock that showed this one"
            )
        return first, last

    def format(self, time: int) -> str:
        """Return a time in ISO 8601, with its offset where there is a time zone."""
        if self._zone is None or self.step % DAY == 0:
            return self._local(time).isoformat()
        return datetime.fromtimestamp(min(time, LATEST), self._zone).isoformat()

    def twice(self, first: int, last: int) -> str:
        """Say what tells apart the two readings of a time that occurs twice."""
        one, other = self.format(first), self.format(last)
        return f"{one[:19]} occurs twice in {self.timezone}: send it with its offset, {one[19:]} or {other[19:]}"

    def following(self, time: int, count: int) -> list[int]:
        """Return the `count` times after `time`."""
        return [time + self.step * (i + 1) for i in range(count)]

    def features(self, times: Iterable[int]) -> Floats:
        """Return the derived features, `[N, K]` in the order of `derived`."""
        rows = [self._row(time) for time in times]
        return np.array(rows, np.float32).reshape(len(rows), len(self.derived))

    def _computed(self, time: int) -> tuple[float, ...]:
        return tuple([feature.value(self._local(time + feature.shift * self.step)) for feature in self.derived.values()])

    def _time(self, moment: datetime) -> int:
        """The time of a moment in the zone."""
        return _wall(moment.replace(tzinfo=None)) if self.step % DAY == 0 else int(moment.timestamp())

    def _local(self, time: int) -> datetime:
        """The wall clock at a time."""
        zone = UTC if self._zone is None or self.step % DAY == 0 else self._zone
        return datetime.fromtimestamp(min(time, LATEST), zone).replace(tzinfo=None, fold=0)


def _wall(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp())


def _seconds(frequency: str) -> int:
    match = re.fullmatch(r"(\d*)([A-Za-z]+)", frequency)
    if match is None or match[2] not in UNITS or match[1] == "0":
        raise ConfigurationError(f'frequency: expected a number and one of {", ".join(UNITS)}, such as "15min", got {frequency!r}')
    return int(match[1] or 1) * UNITS[match[2]]


def _zone(name: str) -> ZoneInfo | None:
    if name in ABBREVIATIONS:
        raise ConfigurationError(f"calendar.timezone: {name!r} stands for {ABBREVIATIONS[name]}; name the place")
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError) as e:
        nearest = get_close_matches(str(name).replace(" ", "_").title(), [zone for zone in available_timezones() if "/" in zone], 1)
        meant = f"did you mean {nearest[0]!r}?" if nearest else 'expected a name such as "America/Chicago"'
        raise ConfigurationError(f'calendar.timezone: unknown {name!r}; {meant} Two hours ahead of UTC all year is "Etc/GMT-2"') from e


def _derived(document: Mapping[str, Any]) -> Derived:
    known = [f.name for f in fields(Derived)]
    if unknown := [name for name in document if name not in known]:
        raise ConfigurationError(f"calendar.derived: unknown field {unknown[0]!r}; known: {', '.join(known)}")
    return Derived(**{**document, "without": tuple(document.get("without", ()))})


def _check_derived(name: str, feature: Derived) -> None:
    if feature.of not in (*CYCLES, "holiday") or feature.form not in FORMS or (feature.of == "holiday") != bool(feature.country):
        raise ConfigurationError(
            f"calendar.derived.{name}: expected of: {', '.join(CYCLES)}, or holiday with a country; form: {', '.join(FORMS)}"
        )
    if feature.country:
        _holidays(feature.country, feature.subdivision, feature.without, 2020)  # an unknown country refuses to start


def _cycle(of: str, moment: datetime) -> tuple[float, float]:
    """Return a quantity of a time, and its period."""
    if of == "minute":
        return moment.minute + moment.second / 60, 60
    if of == "hour":
        return moment.hour + moment.minute / 60 + moment.second / 3_600, 24
    if of == "weekday":
        return moment.weekday(), 7
    if of == "month":
        return moment.month - 1, 12
    return moment.timetuple().tm_yday - 1, 366 if isleap(moment.year) else 365


@lru_cache(maxsize=1_024)
def _holidays(country: str, subdivision: str, without: Sequence[str], year: int) -> frozenset[date]:
    """Return the days of a year on which a holiday falls or is observed. Raises ConfigurationError for a country that is not known."""
    import holidays  # takes a while, and only models with holidays need it

    try:
        days = holidays.country_holidays(country, subdivision or None, years=[year, year + 1])
    except NotImplementedError as e:
        raise ConfigurationError(f"calendar: holidays of {country} {subdivision} are not known: {e}") from e
    observed = " (observed)"
    kept = [day for day, names in days.items() if any(name.removesuffix(observed) not in without for name in names.split("; "))]
    return frozenset(day for day in kept if day.year == year)
