"""Reads series from CSV or Parquet: a column for the series' name, one for the time, and one for each value."""

from array import array
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellstate_series import NAME, TIME, Rows, SeriesFileError, number, opened, stem

Doubles = npt.NDArray[np.float64]


class SeriesError(Exception):
    """The file cannot be read as series. The message is one line for the person at the terminal."""


@dataclass(slots=True)
class Series:
    """One series of N rows and C values each. `keys` order its rows: seconds, or the number of the row where there are no times."""

    name: str
    times: list[str] = field(default_factory=list)  # as they stand in the file; empty where there are none
    keys: list[int] = field(default_factory=list)
    flat: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def values(self) -> Doubles:
        """`[N, C]`; NaN was not measured."""
        return np.frombuffer(self.flat, np.float64).reshape(len(self.keys), -1)


@dataclass(frozen=True, slots=True)
class Table:
    """The series of a file, in the order in which they begin. `columns` name the values."""

    columns: tuple[str, ...]
    series: Sequence[Series]
    has_times: bool


def read(path: Path, id_column: str = "", since: str = "") -> Table:
    """Read a file. The names are in the id column, or in one called `series`; a file without that is one series, named after the file.

    Rows of different series may be mixed; those of one series are in the order of time. An empty cell was not measured. Rows before the
    time `since` are left out.

    Raises:
        SeriesError: the file cannot be read, or a value in it.
    """
    try:
        with opened(path) as rows:
            return _Reader(rows, id_column, since).table()
    except SeriesFileError as e:
        raise SeriesError(str(e)) from e


def key(text: str) -> tuple[int, bool]:
    """Return a time in seconds, and whether it has an offset: since the epoch with one, of the wall clock without.

    Raises:
        ValueError: it is no time in ISO 8601.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return timegm(moment.timetuple()), False
    return int(moment.astimezone(UTC).timestamp()), True


class _Reader:
    """Reads the rows of one file."""

    def __init__(self, rows: Rows, id_column: str, since: str) -> None:
        self._rows, header = rows, rows.header
        self._id = rows.column(id_column or NAME) if id_column or NAME in header else None
        self._time = header.index(TIME) if TIME in header else None
        self._values = [(i, name) for i, name in enumerate(header) if i not in (self._id, self._time)]
        if not self._values or len(set(header)) < len(header):
            shown = ",".join(header)
            raise SeriesError(f"{rows.path}: expected a header of different names with at least one column of values, got {shown!r}")
        if since and self._time is None:
            raise SeriesError(f"{rows.path}: no column {TIME!r}, so it has no rows since {since}")
        self._with_offset: bool | None = None
        self._since = self._key(since, "--since") if since else None
        self._times: dict[str, str] = {}  # one string for each time: the series of a file share their times

    def table(self) -> Table:
        """Return all series."""
        found: dict[str, Series] = {}
        name = stem(self._rows.path)
        for where, row in self._rows.rows:
            if self._id is not None:
                name = row[self._id]
            if name not in found:
                found[name] = Series(name)
            self._add(found[name], row, where)
        columns = tuple(name for _, name in self._values)
        return Table(columns, [series for series in found.values() if series.keys], self._time is not None)

    def _add(self, series: Series, row: Sequence[str], where: str) -> None:
        if self._time is None:
            series.keys.append(len(series.keys))
        else:
            text = row[self._time]
            seconds = self._key(text, where)
            if self._since is not None and seconds < self._since:
                return
            series.times.append(self._times.setdefault(text, text))
            series.keys.append(seconds)
        series.flat.extend([number(row[i], where, name) for i, name in self._values])

    def _key(self, text: str, where: str) -> int:
        try:
            seconds, with_offset = key(text)
        except ValueError as e:
            raise SeriesError(f"{where}: {TIME}: expected a time such as 2018-09-29T23:00:00, got {text[:40]!r}") from e
        if self._with_offset not in (None, with_offset):
            raise SeriesError(f"{where}: {TIME}: some times have an offset and others have none")
        self._with_offset = with_offset
        return seconds
