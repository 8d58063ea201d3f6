"""The requests of one series' stream: where it is, and the steps that follow."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellstate import CellstateError, SessionExpired, SessionNotFound
from host.bulk.jobs import Answer, Json
from host.bulk.series import Series, key

CHUNK = 192  # rows of one request: fewer steps than those of a long request, which would have to wait for its turn


@dataclass
class SeriesStream:
    """One series and the session that it is streamed into. `row` is the first row that the session has not consumed."""

    series: Series
    columns: tuple[str, ...]
    id: str
    row: int = 0
    position: int = 0
    generation: int | None = None

    def __post_init__(self) -> None:
        complete = np.flatnonzero(~np.isnan(self.series.values).any(axis=1))
        self.first = int(complete[0]) if complete.size else self.length  # a stream cannot begin with a hole
        self.row = self.first

    @property
    def length(self) -> int:
        """The number of rows."""
        return len(self.series.keys)

    def locate(self) -> Generator[Json, Answer, None]:
        """Ask where the session is, and go on from there; one that is not there begins.

        Raises:
            CellstateError: the session cannot be gone on with.
        """
        answer = yield {"session": {"id": self.id, "action": "describe"}}
        if isinstance(answer, SessionNotFound | SessionExpired):
            return
        if isinstance(answer, CellstateError):
            raise answer
        session = answer["session"]
        self._move(session)
        if self.series.times and "time" in session:
            self.row = self._row_after(session["time"])
        else:
            self.row = min(self.first + self.position, self.length)

    def _row_after(self, time: str) -> int:
        """Return the first row behind a time of the stream; its offset does not count where the file has none."""
        with_offset = key(self.series.times[0])[1]
        seconds = key(time if with_offset or len(time) <= 19 else time[:19])[0]
        return next((i for i, at in enumerate(self.series.keys) if at > seconds), self.length)

    def step(self, end: int, **more: Any) -> Generator[Json, Answer, Json]:
        """Send the rows up to `end` as one step of the session, and return the answer.

        Raises:
            CellstateError: the step was refused.
        """
        session = {"id": self.id, "step": self.position}
        if self.generation is not None:
            session["generation"] = self.generation
        answer = yield {**self._rows(end), "session": session, **more}
        if isinstance(answer, CellstateError):
            raise answer
        self._move(answer["session"])
        self.row = end
        return answer

    def _move(self, session: Json) -> None:
        self.position, self.generation = session["step"], session["generation"]

    @property
    def place(self) -> str:
        """Where the next row stands in the series, for a message."""
        return self.series.times[self.row] if self.series.times and self.row < self.length else f"row {self.row + 1}"

    def _rows(self, end: int) -> Json:
        values = self.series.values[self.row : end]
        rows = [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
        if not self.series.times:
            return {"inputs": rows}
        times = self.series.times[self.row : end]
        return {
            "observations": [{"time": time, **dict(zip(self.columns, row, strict=True))} for time, row in zip(times, rows, strict=True)]
        }

    def chunks(self, end: int) -> Iterator[int]:
        """Return where requests end that send the rows up to `end`.

        Rows in which clocks are set back stay together: between them the time alone does not tell where a stream is.
        """
        at, latest = self.row, np.maximum.accumulate(np.array(self.series.keys, np.int64)).tolist()
        while at < end:
            at += CHUNK
            while at < end and self.series.keys[at] <= latest[at - 1]:
                at += 1
            yield min(at, end)
