"""Rolling-origin evaluation of a served model: each series is streamed into a session of its own, and forecast from many of its rows.

A session knows at each origin what had been measured until then, and nothing later. It is closed when its series is done.
"""

import secrets
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from cellstate import CellstateError, InvalidInput
from host.bulk.jobs import Answer, Job, Json
from host.bulk.scores import Bounds, Doubles, Forecasts, Integers, SeasonalNaive, Totals
from host.bulk.series import Series, SeriesError, Table, key
from host.bulk.streams import SeriesStream

MAX_GRID = 10_000_000  # steps of one series, gaps included


@dataclass
class Plan:
    """What is forecast, and from where. Rows and steps are counted from the start of each series."""

    targets: tuple[str, ...]  # the columns that are forecast, in the order of the model's outputs
    horizon: int
    every: int  # rows between two origins
    warm: int  # rows before the first origin; 0: half of each series
    season: int  # steps
    levels: tuple[int, ...]  # of intervals, in percent; emptied where the model has none


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of one series."""

    name: str
    origins: int = 0
    error: str = ""


@dataclass(frozen=True)
class Grid:
    """The targets of one series at equal steps, `[G, O]`: NaN where nothing was measured, and at times of the clock that occur twice."""

    values: Doubles
    first: int  # the key of the first step
    step: int  # keys between two steps

    @classmethod
    def of(cls, series: Series, columns: Sequence[int]) -> "Grid":
        """Return the grid of a series; its step is the difference that most of its rows have.

        Raises:
            SeriesError: its times are too far apart.
        """
        apart = Counter(later - earlier for earlier, later in pairwise(series.keys) if later > earlier)
        step = apart.most_common(1)[0][0] if apart else 1
        places = (np.array(series.keys) - series.keys[0]) // step
        if places.max() >= MAX_GRID:
            raise SeriesError(f"{places.max():,} steps of {step} s from the first time to the last")
        values = np.full((int(places.max()) + 1, len(columns)), np.nan)
        values[places] = series.values[:, columns]
        found, counts = np.unique(places, return_counts=True)
        values[found[counts > 1]] = np.nan
        return cls(values, series.keys[0], step)

    def place(self, key: int) -> int:
        """Return the step at a key."""
        return (key - self.first) // self.step


@dataclass
class Backtest:
    """Forecasts of the series of one file, and their scores. Jobs may run in several threads."""

    table: Table
    plan: Plan
    run: str = field(default_factory=lambda: secrets.token_hex(4))  # in the ids of the sessions: no other run has it
    model: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.totals, self.naive = (Totals(self.plan.horizon, self.plan.levels) for _ in range(2))
        self._lock = Lock()
        self._targets = [self.table.columns.index(name) for name in self.plan.targets]
        self._given = [i for i in range(len(self.table.columns)) if i not in self._targets]

    def job(self, number: int, series: Series) -> Job[Scored]:
        """Stream one series, and add its scores."""
        stream = SeriesStream(series, self.table.columns, f"backtest-{self.run}-{number}")
        try:
            grid = Grid.of(series, self._targets)
            made = yield from self._forecasts(stream, grid)
            result = Scored(series.name, len(made))
            self._add(grid, made)
        except (CellstateError, SeriesError) as e:
            result = Scored(series.name, error=f"from {stream.place} on: {e}")
        if stream.position:
            yield {"session": {"id": stream.id, "action": "close"}}
        return result

    def _forecasts(self, stream: SeriesStream, grid: Grid) -> Generator[Json, Answer, list["_Origin"]]:
        first = max(self.plan.warm or stream.length // 2, stream.first + 2)
        if first >= stream.length:
            raise SeriesError(f"{stream.length} rows, too few for a forecast after {first}")
        for end in stream.chunks(first - 1):
            yield from stream.step(end, **{"return": []})
        made = []
        for end in range(first, stream.length, self.plan.every):
            answer = yield from self._step(stream, end)
            if "forecast" in answer:
                made.append(self._origin(stream, grid, answer))
        return made

    def _step(self, stream: SeriesStream, end: int) -> Generator[Json, Answer, Json]:
        """Send the rows up to `end`, with a forecast where its inputs are known in advance."""
        more: dict[str, Any] = {"horizon": self.plan.horizon}
        if self._given:
            future = self._future(stream.series, end)
            if future is None:
                return (yield from stream.step(end))
            more["future"] = future
        levels = self.plan.levels
        try:
            return (yield from stream.step(end, **more, **({"levels": levels} if levels else {})))
        except InvalidInput as e:
            if not levels or not e.message.startswith("levels:"):
                raise
            self.plan.levels = ()  # the model has no intervals
            return (yield from stream.step(end, **more))

    def _future(self, series: Series, end: int) -> list[list[float]] | None:
        """Return the values of the other columns in the rows that follow; None where rows or values are missing."""
        ahead = slice(end, end + self.plan.horizon)
        steps = {later - earlier for earlier, later in pairwise(series.keys[end - 1 : ahead.stop])}
        values = series.values[ahead, self._given]
        if len(values) < self.plan.horizon or len(steps) > 1 or np.isnan(values).any():
            return None
        known: list[list[float]] = values.tolist()
        return known

    def _origin(self, stream: SeriesStream, grid: Grid, answer: Json) -> "_Origin":
        values = np.array(answer["forecast"], np.float64)
        if values.shape[1] != len(self.plan.targets):
            raise SeriesError(f"the model forecasts {values.shape[1]} columns: name them in their order with --target")
        self.model = answer["model"]
        at = stream.series.keys[stream.row - 1]
        if stream.series.times:
            whole = key(stream.series.times[0])[1]
            places = [grid.place(key(time if whole else time[:19])[0]) for time in answer["times"]]
        else:
            places = [at + 1 + ahead for ahead in range(len(values))]
        bounds = {
            int(level): (np.array(pair["lower"], np.float64), np.array(pair["upper"], np.float64))
            for level, pair in answer.get("intervals", {}).items()
        }
        return _Origin(grid.place(at), np.array(places, np.int64), values, bounds)

    def _add(self, grid: Grid, made: Sequence["_Origin"]) -> None:
        if not made:
            return
        origins, places = np.array([one.place for one in made]), np.stack([one.places for one in made])
        naive = SeasonalNaive(grid.values, self.plan.season, int(origins[0]) + 1)
        bounds: Bounds = {
            level: (np.stack([one.bounds[level][0] for one in made]), np.stack([one.bounds[level][1] for one in made]))
            for level in self.plan.levels
            if all(level in one.bounds for one in made)
        }
        served = Forecasts(np.stack([one.values for one in made]), naive.at(places), bounds)
        beside, scale = naive.forecasts(origins, places, list(bounds)), naive.scale()
        with self._lock:
            self.totals.add(served, scale)
            self.naive.add(beside, scale)


@dataclass(frozen=True, slots=True)
class _Origin:
    """One forecast `[H, O]` with its intervals: the step of the grid that was observed last, and the steps that are forecast."""

    place: int
    places: Integers  # [H]
    values: Doubles
    bounds: Bounds
