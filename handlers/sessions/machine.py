"""The rules of a session, as one table: what a request asks for (operation), where the session is (phase), and what happens (transition).

Code, tests and docs/sessions.md read the same `TABLE`. A request that the table refuses raises a SessionError that names the request, the
phase and the session, and changes nothing.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from handlers import errors
from handlers.arrays import Array
from handlers.sessions.recent import UNKNOWN
from handlers.sessions.record import Record
from handlers.sessions.reference import Action, AnyRef
from handlers.sessions.state import MAX_POSITION
from handlers.versions import version_order


class Word(Enum):
    """A word of the table. Members are singletons: hashing them by identity is fast, and `Enum` hashes their names in Python."""

    __hash__ = object.__hash__


class Phase(Word):
    """Where a session is, by its record, the clock and the serving model."""

    ABSENT = "absent"
    LIVE = "live"
    REWARMABLE = "rewarmable"  # live, with the state of another model of no higher version, which this one can rebuild from recent inputs
    MISMATCH = "model mismatch"  # live, with the state of another model
    CLOSED = "closed"
    EXPIRED = "expired"


UNSAID = -1  # in a column of steps or generations: the request does not say
ALIVE = (Phase.LIVE, Phase.REWARMABLE, Phase.MISMATCH)


class Operation(Word):
    """What a request asks of a session."""

    START = "start"  # "step": 0, or no id
    RESTART = "restart"  # a first step that replaces whatever was there: `sequence_start` of the Open Inference Protocol
    NEXT = "next"  # the step that the session is at, or no step
    REPEAT_STEP = "repeat step"  # the step that was applied last, sent again
    WRONG_STEP = "wrong step"  # a step, generation or `from` that is not the session's
    DESCRIBE = "describe"
    EXPORT = "export"
    REWIND = "rewind"
    FORK = "fork"  # asked of the source
    CREATE_FROM_STATE = "create from a state"  # asked of the session that a fork or an import makes
    REPEAT_ACTION = "repeat action"  # the fork, import or rewind that left the session as it is, sent again
    CLOSE = "close"


class Transition(Word):
    """What happens."""

    CREATE = "create"  # run the inputs from the initial state
    APPLY = "apply"  # run the inputs from the recorded state
    REWARM = "rewarm"  # run the recent inputs through this model first, then the request's
    REPLAY = "replay"  # answer the last step again from the record
    DESCRIBE = "describe"
    EXPORT = "export"  # answer with the recorded state
    REWIND = "rewind"  # write an earlier state
    FORK = "fork"  # read the state for the session to be created
    CREATE_FROM_STATE = "create from a state"  # write a new record
    CONFIRM = "confirm"  # answer where the session is; the action was done before
    READ = "read"  # answer where the session is
    CLOSE = "close"  # leave a tombstone


NotFound, Conflict, Exists = errors.SessionNotFound, errors.StepConflict, errors.SessionExists
Changed, Closed, Expired = errors.ModelChanged, errors.SessionClosed, errors.SessionExpired
O, T = Operation, Transition  # noqa: E741
Outcome = Transition | type[errors.SessionError]


def _row(absent: Outcome, live: Outcome, rewarmable: Outcome, mismatch: Outcome, closed: Outcome, expired: Outcome) -> dict[Phase, Outcome]:
    return dict(zip(Phase, (absent, live, rewarmable, mismatch, closed, expired), strict=True))


TABLE: dict[Operation, dict[Phase, Outcome]] = {
    #                          absent               live          rewarmable    mismatch      closed       expired
    O.START:             _row(T.CREATE,            Exists,       Exists,       Exists,       Closed,      T.CREATE),
    O.RESTART:           _row(T.CREATE,            T.CREATE,     T.CREATE,     T.CREATE,     T.CREATE,    T.CREATE),
    O.NEXT:              _row(NotFound,            T.APPLY,      T.REWARM,     Changed,      Closed,      Expired),
    O.REPEAT_STEP:       _row(NotFound,            T.REPLAY,     T.REPLAY,     T.REPLAY,     T.REPLAY,    Expired),
    O.WRONG_STEP:        _row(NotFound,            Conflict,     Conflict,     Conflict,     Closed,      Expired),
    O.DESCRIBE:          _row(NotFound,            T.DESCRIBE,   T.DESCRIBE,   T.DESCRIBE,   Closed,      Expired),
    O.EXPORT:            _row(NotFound,            T.EXPORT,     T.EXPORT,     T.EXPORT,     Closed,      Expired),
    O.REWIND:            _row(NotFound,            T.REWIND,     Changed,      Changed,      Closed,      Expired),
    O.FORK:              _row(NotFound,            T.FORK,       T.FORK,       T.FORK,       Closed,      Expired),
    O.CREATE_FROM_STATE: _row(T.CREATE_FROM_STATE, Exists,       Exists,       Exists,       Closed,      T.CREATE_FROM_STATE),
    O.REPEAT_ACTION:     _row(NotFound,            T.CONFIRM,    T.CONFIRM,    T.CONFIRM,    T.CONFIRM,   Expired),
    O.CLOSE:             _row(NotFound,            T.CLOSE,      T.CLOSE,      T.CLOSE,      T.READ,      Expired),
}  # fmt: skip

REMEDY: dict[type[errors.SessionError], str] = {
    NotFound: 'start it with "step": 0',
    Conflict: "continue with the expected step and generation; an earlier step is answered again only when it is the last one applied, "
    "sent unchanged",
    Exists: 'continue it with its expected step, close it, or start another id; "step": 0 never resets a live session',
    Changed: "close it and start anew, or send it to the model version that made its state",
    Closed: "use another id; this one is free again when its tombstone is gone",
    Expired: 'start anew with "step": 0',
}

OPERATIONS = {
    Action.DESCRIBE: Operation.DESCRIBE,
    Action.EXPORT: Operation.EXPORT,
    Action.REWIND: Operation.REWIND,
    Action.FORK: Operation.FORK,
    Action.IMPORT: Operation.CREATE_FROM_STATE,
    Action.CLOSE: Operation.CLOSE,
}


class PhaseRules(Struct, frozen=True):
    """What the phase of a session depends on besides its record and the time."""

    model_digest: bytes
    tombstone_ttl: float  # seconds
    rewarm_steps: int = 0  # inputs that a state is rebuilt from; 0: no state is
    layouts: frozenset[bytes] = frozenset()  # of the recent inputs that the model can run
    columns: int = 0  # F of the model's inputs, 0 for token ids: the inputs that earlier releases kept tell no layout
    version: str = ""  # of the model

    def phase(self, record: Record | None, now: float) -> Phase:
        """Return where a session is. A record past its tombstone's time counts as absent whether or not it was swept."""
        if record is None or record.expires_at + self.tombstone_ttl < now:
            return Phase.ABSENT
        if record.closed:
            return Phase.CLOSED
        if record.expires_at < now:
            return Phase.EXPIRED
        if record.state.digest == self.model_digest:
            return Phase.LIVE
        return Phase.REWARMABLE if self._rewarmable(record) else Phase.MISMATCH

    def _rewarmable(self, record: Record) -> bool:
        takes_turns = version_order(record.version) > version_order(self.version)  # with another version over the same store
        return not takes_turns and self.can_rebuild(record)

    def can_rebuild(self, record: Record) -> bool:
        """Whether this model can rebuild a session's state from its recent inputs, whichever version made it."""
        recent = record.state.recent
        if not self.rewarm_steps or recent is None or not recent.covers(self.rewarm_steps):
            return False
        if recent.layout != UNKNOWN:
            return recent.layout in self.layouts
        return recent.columns == self.columns


def operation(ref: AnyRef, request_hash: bytes, record: Record | None, phase: Phase) -> Operation:
    """Return what a request asks of the session that it names. Without `step` a request is never taken for a repeat: it applies again."""
    if ref.action is not Action.STEP:
        return _action(ref, request_hash, record, phase)
    if ref.restart:
        return Operation.RESTART
    if record is None or phase in (Phase.ABSENT, Phase.EXPIRED):
        return Operation.START if ref.step == 0 or ref.id is None else Operation.NEXT if ref.step is None else Operation.WRONG_STEP
    if ref.step == record.last_step and _is_repeated(ref, request_hash, record):
        return Operation.REPEAT_STEP
    if ref.generation is not None and ref.generation != record.generation:
        return Operation.WRONG_STEP
    if ref.step is None or ref.step == record.state.position:
        return Operation.NEXT
    return Operation.START if ref.step == 0 else Operation.WRONG_STEP


def next_steps(rules: PhaseRules, records: Array, refs: Sequence[AnyRef], length: int, now: float) -> npt.NDArray[np.bool_]:
    """Return which of many steps of `length` inputs are the next of live sessions, which the table lets through.

    `records` are rows of `columns.read_alike`, `refs` refer to their sessions for a step. Of a step that is left out `operation` and
    `phase` tell what it is; left out are, too, the next steps of sessions to which none was applied since a rewind or their making.
    """
    position, generation = records["position"].astype(np.int64), records["generation"].astype(np.int64)
    asked = np.array([UNSAID if ref.step is None else ref.step for ref in refs], np.int64)
    believed = np.array([UNSAID if ref.generation is None else ref.generation for ref in refs], np.int64)
    is_live = (records["expires_at"] >= now) & (records["digest"] == np.frombuffer(rules.model_digest, "<u8")).all(axis=1)
    is_next = ((asked == UNSAID) | (asked == position)) & ((believed == UNSAID) | (believed == generation))
    return np.asarray(is_live & is_next & (records["last_step"] != position) & (position + length <= MAX_POSITION))


def _is_repeated(ref: AnyRef, request_hash: bytes, record: Record) -> bool:
    return request_hash == record.last_hash and ref.generation in (None, record.last_generation)


def _action(ref: AnyRef, request_hash: bytes, record: Record | None, phase: Phase) -> Operation:
    asked = OPERATIONS[ref.action]
    if asked is Operation.CREATE_FROM_STATE:
        return creation(request_hash, record, phase)
    if asked is not Operation.REWIND or record is None:
        return asked
    if record.rewind_hash == request_hash:
        return Operation.REPEAT_ACTION
    elsewhere = ref.from_step is not None and ref.from_step != record.state.position
    stale = ref.generation is not None and ref.generation != record.generation
    return Operation.WRONG_STEP if elsewhere or stale else asked


def creation(request_hash: bytes, record: Record | None, phase: Phase) -> Operation:
    """Return what a fork or an import asks of the session that it makes: a repeat when that session is as this very request left it."""
    if record is None or phase not in ALIVE or record.last_step != record.state.position or record.last_hash != request_hash:
        return Operation.CREATE_FROM_STATE
    return Operation.REPEAT_ACTION


def decide(asked: Operation, phase: Phase, id: str, ref: AnyRef, record: Record | None) -> Transition:
    """Look up what happens.

    Raises:
        SessionError: the table refuses the request.
    """
    outcome = TABLE[asked][phase]
    if not isinstance(outcome, Transition):
        raise_refused(outcome, phase, id, ref, record)
    return outcome


def raise_refused(error: type[errors.SessionError], phase: Phase, id: str, ref: AnyRef, record: Record | None) -> NoReturn:
    """Raise `error`, naming the request, the phase and the session."""
    details: dict[str, Any] = {"session": id}
    position = ""
    if record is not None and phase in ALIVE:
        details |= {"expected": record.state.position, "generation": record.generation}
        position = f", at step {record.state.position}" + (f" of generation {record.generation}" if record.generation else "")
        if error is Changed and record.version:
            details["version"] = record.version
    asked = (
        f'"action": "{ref.action}"' if ref.action is not Action.STEP else f'"step": {ref.step}' if ref.step is not None else "a next step"
    )
    if ref.generation is not None:
        asked += f' with "generation": {ref.generation}'
    raise error(f"session {id} is {phase.value}{position}; {asked} cannot be served: {REMEDY[error]}", **details)
