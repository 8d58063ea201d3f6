"""The rules of a session: one table.

Code, documentation and tests read the same `TABLE`. An illegal move is a SessionError that names event, state and session, and changes
nothing. This module knows neither stores nor models: a record goes in, a move or an error comes out.
"""

from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, NoReturn

from handlers import errors
from handlers.protocols.native.decode import SessionRef
from handlers.sessions.record import Record


class Phase(Enum):
    """Where a session is, as its record, the clock and the serving model have it."""

    ABSENT = "absent"
    LIVE = "live"
    FOREIGN = "foreign"  # live, but its state was made by another model
    CLOSED = "closed"
    EXPIRED = "expired"


class Event(Enum):
    """What a request asks of a session."""

    START = "start"  # "step": 0, or no id
    NEXT = "next"  # the step that the session is at, or no step
    REPEAT = "repeat"  # the request that was applied last
    ELSEWHERE = "elsewhere"  # a step that the session is not at
    DESCRIBE = "describe"
    EXPORT = "export"
    REWIND = "rewind"  # to a position before, among the kept ones
    FORK = "fork"  # asked of the source
    BEGET = "beget"  # asked of the session that a fork or an import makes
    CLOSE = "close"


class Move(Enum):
    """What is done about it."""

    CREATE = "create"  # apply to the initial state
    APPLY = "apply"  # apply to the recorded state
    REPLAY = "replay"  # answer from the record
    SHOW = "show"  # answer from the record's head, change nothing
    TAKE_BACK = "take back"  # write an earlier state
    END = "end"  # leave a tombstone
    BEAR = "bear"  # write a new record
    REBUILD = "rebuild"  # run the recorded inputs through this model, then apply


NotFound, Conflict, Exists = errors.SessionNotFound, errors.StepConflict, errors.SessionExists
Changed, Closed, Expired = errors.ModelChanged, errors.SessionClosed, errors.SessionExpired
P, E, M = Phase, Event, Move

TABLE: dict[Event, dict[Phase, Move | type[errors.SessionError]]] = {
    E.START:     {P.ABSENT: M.CREATE, P.LIVE: Exists,   P.FOREIGN: Exists,   P.CLOSED: Closed,   P.EXPIRED: M.CREATE},
    E.NEXT:      {P.ABSENT: NotFound, P.LIVE: M.APPLY,  P.FOREIGN: M.REBUILD,  P.CLOSED: Closed,   P.EXPIRED: Expired},
    E.REPEAT:    {P.ABSENT: NotFound, P.LIVE: M.REPLAY, P.FOREIGN: M.REPLAY, P.CLOSED: M.REPLAY, P.EXPIRED: Expired},
    E.ELSEWHERE: {P.ABSENT: NotFound, P.LIVE: Conflict, P.FOREIGN: Conflict, P.CLOSED: Closed,   P.EXPIRED: Expired},
    E.DESCRIBE:  {P.ABSENT: NotFound, P.LIVE: M.SHOW,   P.FOREIGN: M.SHOW,   P.CLOSED: Closed,   P.EXPIRED: Expired},
    E.EXPORT:    {P.ABSENT: NotFound, P.LIVE: M.SHOW,   P.FOREIGN: M.SHOW,   P.CLOSED: Closed,   P.EXPIRED: Expired},
    E.REWIND:    {P.ABSENT: NotFound, P.LIVE: M.TAKE_BACK, P.FOREIGN: Changed, P.CLOSED: Closed, P.EXPIRED: Expired},
    E.FORK:      {P.ABSENT: NotFound, P.LIVE: M.SHOW,   P.FOREIGN: M.SHOW,   P.CLOSED: Closed,   P.EXPIRED: Expired},
    E.BEGET:     {P.ABSENT: M.BEAR,   P.LIVE: Exists,   P.FOREIGN: Exists,   P.CLOSED: Closed,   P.EXPIRED: M.BEAR},
    E.CLOSE:     {P.ABSENT: NotFound, P.LIVE: M.END,    P.FOREIGN: M.END,    P.CLOSED: M.SHOW,   P.EXPIRED: Expired},
}  # fmt: skip

REMEDY: dict[type[errors.SessionError], str] = {
    NotFound: 'start it with "step": 0',
    Conflict: "continue with the expected step; an earlier step is answered again only when it is the last one applied, sent unchanged",
    Exists: 'continue it with its expected step, close it, or start another id; "step": 0 never resets a live session',
    Changed: "close it and start anew, or send it to the model version that made its state (or configure rewarm_steps)",
    Closed: "use another id; this one is free again when its tombstone is gone",
    Expired: 'start anew with "step": 0',
}


def phase(record: Record | None, now: float, model_digest: bytes, tombstone_ttl: float) -> Phase:
    """Where a session stands. A record past its tombstone's time counts as absent whether or not a sweep has come by."""
    if record is None or record.expires_at + tombstone_ttl < now:
        return Phase.ABSENT
    if record.closed:
        return Phase.CLOSED
    if record.expires_at < now:
        return Phase.EXPIRED
    return Phase.LIVE if record.state.digest == model_digest else Phase.FOREIGN


def event(ref: SessionRef, digest: bytes, record: Record | None, where: Phase) -> Event:
    """What a request asks, given the record. A request without `step` is never taken for a repeat: it applies where the session is."""
    if ref.action == "rewind" and record is not None and record.left_by(digest):
        return Event.REPEAT
    if ref.action != "step":
        return ACTIONS[ref.action]
    if record is None or where in (Phase.ABSENT, Phase.EXPIRED):
        return Event.START if ref.step == 0 or ref.id is None else Event.NEXT if ref.step is None else Event.ELSEWHERE
    if ref.step == record.last_step and digest == record.last_digest:
        return Event.REPEAT
    if ref.step is None or ref.step == record.state.position:
        return Event.NEXT
    return Event.START if ref.step == 0 else Event.ELSEWHERE


def begotten(ref: SessionRef, digest: bytes, record: Record | None, where: Phase) -> Event:
    """What a fork or an import asks of the session it makes: a repeat when that session is as this very request left it."""
    alive = record is not None and where in (Phase.LIVE, Phase.FOREIGN)
    return Event.REPEAT if alive and record is not None and record.left_by(digest) else Event.BEGET


ACTIONS = {
    "describe": Event.DESCRIBE,
    "rewind": Event.REWIND,
    "export": Event.EXPORT,
    "fork": Event.FORK,
    "import": Event.BEGET,
    "close": Event.CLOSE,
}


def decide(what: Event, where: Phase, id: str, ref: SessionRef, record: Record | None) -> Move:
    """Look the move up. Raises the SessionError that the table names."""
    move = TABLE[what][where]
    if not isinstance(move, Move):
        refuse(move, where, id, ref, record)
    return move


def refuse(error: type[errors.SessionError], where: Phase, id: str, ref: SessionRef, record: Record | None) -> NoReturn:
    """Raise `error`, naming event, state and session."""
    details: dict[str, Any] = {"session": id}
    where_it_is = ""
    if record is not None and where in (Phase.LIVE, Phase.FOREIGN):
        details["expected"] = record.state.position
        where_it_is = f", at step {record.state.position}"
    named = f'"step": {ref.step}' if ref.step is not None else "a next step"
    asked = f'"action": "{ref.action}"' if ref.action != "step" else named
    raise error(f"session {id} is {where.value}{where_it_is}; {asked} cannot be served: {REMEDY[error]}", **details)


def field(id: str, record: Record) -> dict[str, Any]:
    """The `session` field of a response."""
    shown = {"id": id, "step": record.state.position, "expires_at": timestamp(record.expires_at), "replayed": False}
    return shown | {"closed": True} if record.closed else shown


def describe(id: str, record: Record) -> dict[str, Any]:
    """The `session` field of the answer to `describe`."""
    more = {"created_at": timestamp(record.created_at), "last_step": record.last_step, "model_digest": record.state.digest.hex()}
    return field(id, record) | more


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, whole seconds."""
    return _timestamp(int(seconds))


@lru_cache(maxsize=64)  # a batch's sessions expire in the same second
def _timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
