"""Warm start: many series are streamed into sessions of their own, each row exactly once, whatever was sent before."""

from dataclasses import dataclass

from cellstate import CellstateError, SessionExists, StepConflict
from host.bulk.jobs import Job
from host.bulk.streams import SeriesStream

TRIES = 3  # at a session that somebody else steps, too


@dataclass(frozen=True, slots=True)
class Warmed:
    """What became of one series: how many steps its session gained, or why it did not get all of them."""

    name: str
    rows: int  # that were sent
    error: str = ""


def warm(stream: SeriesStream) -> Job[Warmed]:
    """Stream what a session has not consumed yet."""
    name, sent = stream.series.name, 0
    for attempt in range(1, TRIES + 1):
        try:
            yield from stream.locate()
            for end in stream.chunks(stream.length):
                before = stream.row
                yield from stream.step(end, **{"return": []})
                sent += end - before
            return Warmed(name, sent)
        except (StepConflict, SessionExists) as e:
            if attempt == TRIES:
                return Warmed(name, sent, f"somebody else steps the session: {e}")
        except CellstateError as e:
            return Warmed(name, sent, f"from {stream.place} on: {e}")
    raise AssertionError("the last attempt returns")
