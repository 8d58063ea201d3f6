"""State what a session is, one request at a time: docs/sessions.md written a second time, independently of the service.

`Specification.serve` takes a model state and a request, and returns the next model state and the only right reply.
`Specification.follow` compares a recorded answer with that reply. Time, concurrency and HTTP are the search's concern.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from loadtests.history import Answer, Invocation, Operation
from loadtests.offline import Array
from loadtests.oracle.lineages import Lineage, Lineages

Request = tuple[Any, ...]  # equal for a request and its repetition, and for no other
COMPARED = ("status", "code", "session", "step", "replayed", "closed", "expected")  # fields of an answer that must be equal
ABSENT, LIVE, CLOSED = "absent", "live", "closed"


class Applied(NamedTuple):
    """The step that was applied last: the position and generation before it, and its prediction once seen."""

    step: int
    generation: int
    request: Request
    prediction: Any = None


class Session(NamedTuple):
    """One session. `kept` are the earlier states that it can be rewound to, newest first.

    `last` is the step that a retry repeats, `beginning` the fork or import that began the session: until a step follows, and a rewind to
    the current position leaves both as they were. `rewind` is the rewind that left the session as it is.
    """

    phase: str
    at: Lineage
    generation: int = 0
    last: Applied | None = None
    beginning: Request | None = None
    rewind: Request | None = None
    kept: tuple[Lineage, ...] = ()


class ModelState(NamedTuple):
    """The sessions of one partition, what each exported state stands for, and the source that each fork in progress has read."""

    sessions: tuple[Session, ...]
    exported: frozenset[tuple[str, Lineage]] = frozenset()
    fork_reads: frozenset[tuple[int, Session]] = frozenset()  # by the operation's number


class Reply(NamedTuple):
    """The right answer. `after` is what its prediction follows from, `stored` what a repetition must repeat to the digit."""

    status: int
    code: str = ""
    session: str | None = None
    step: int | None = None
    replayed: bool = False
    closed: bool = False
    expected: int | None = None
    generation: int | None = None
    after: Lineage | None = None
    stored: Any = None


class Contradiction(Exception):
    """A recorded answer is not the right one in this model state; the message says why."""


class Specification:
    """The rules for one partition.

    Args:
        lineages: what the model predicts offline.
        names: the sessions of the partition.
        keep: how many earlier states the service keeps; None where that is unknown, and any rewind may be refused.
        generations: whether the service has generations; histories of older services do not mention them.
    """

    def __init__(self, lineages: Lineages, names: Sequence[str], keep: int | None = None, generations: bool = True) -> None:
        self.lineages, self.keep, self.generations, self.largest = lineages, keep, generations, 0.0
        self.names, self._index = list(names), {name: i for i, name in enumerate(names)}
        self.beginning = ModelState((Session(ABSENT, lineages.root),) * len(self.names))

    def describe(self, state: ModelState, name: str) -> str:
        """Say in words where a session is."""
        session = self._session(state, name)
        return f"{name} is {session.phase}" + (f" at {session.at.position}" if session.phase != ABSENT else "")

    def serve(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        """Return the model state after a request, and the reply.

        Raises:
            Contradiction: the request imports a state that was never exported.
        """
        return self._RULES[asked.action](self, state, asked)

    def perform(self, state: ModelState, operation: Operation) -> tuple[ModelState, Reply]:
        """Serve an operation. A fork that has read its source earlier is served as if the source were still so."""
        asked = operation.invocation
        read = next((read for read in state.fork_reads if read[0] == operation.number), None)
        if read is None:
            return self.serve(state, asked)
        meanwhile = self._session(state, asked.session)
        after, reply = self.serve(self._with(state, asked.session, read[1])._replace(fork_reads=state.fork_reads - {read}), asked)
        return self._with(after, asked.session, meanwhile), reply

    def read_source(self, state: ModelState, operation: Operation) -> ModelState:
        """Let a fork in progress read its source, once, and only where the source is live."""
        source = self._session(state, operation.invocation.session)
        if source.phase != LIVE or any(number == operation.number for number, _ in state.fork_reads):
            return state
        return state._replace(fork_reads=state.fork_reads | {(operation.number, source)})

    def _session(self, state: ModelState, name: str) -> Session:
        return state.sessions[self._index[name]]

    def _with(self, state: ModelState, name: str, session: Session) -> ModelState:
        sessions = list(state.sessions)
        sessions[self._index[name]] = session
        return state._replace(sessions=tuple(sessions))

    # One rule for each action.

    def _step(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        assert asked.inputs is not None  # every step has some
        session, request = self._session(state, asked.session), ("step", self.lineages.content(asked.inputs))
        if _repeats_step(session, asked, request):
            return state, _replay(asked.session, session)
        if session.phase == ABSENT and asked.step != 0:
            return state, Reply(404, "session_not_found")
        if session.phase == CLOSED:
            return state, Reply(410, "session_closed")
        here = session.at.position
        if asked.generation not in (None, session.generation):
            return state, _conflict(session)
        if asked.step not in (None, here):
            return state, _conflict(session, "session_exists" if asked.step == 0 else "step_conflict")
        after = self.lineages.extend(session.at, asked.inputs)
        if not asked.commit:
            return state, Reply(200, "", asked.session, here, generation=session.generation, after=after)
        last = Applied(here, session.generation, request)
        applied = Session(LIVE, after, session.generation, last, None, None, (session.at, *session.kept)[: self.keep])
        return self._with(state, asked.session, applied), _told(asked.session, applied, after=after)

    def _describe(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        session = self._session(state, asked.session)
        return state, _refusal(session) or _told(asked.session, session)

    def _rewind(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        session, request = self._session(state, asked.session), ("rewind", asked.step, asked.from_step, asked.generation)
        if session.rewind == request:
            return state, _told(asked.session, session, replayed=True, closed=session.phase == CLOSED)
        if (refused := _refusal(session)) is not None:
            return state, refused
        if asked.generation not in (None, session.generation) or asked.from_step not in (None, session.at.position):
            return state, _conflict(session)
        target = next((kept for kept in (session.at, *session.kept) if kept.position == asked.step), None)
        if target is None:
            return state, Reply(422, "invalid_input")
        earlier = tuple(kept for kept in session.kept if kept.position < target.position)
        last, beginning = (session.last, session.beginning) if self.generations and target is session.at else (None, None)
        back = Session(LIVE, target, session.generation + 1, last, beginning, request, earlier)
        return self._with(state, asked.session, back), _told(asked.session, back)

    def _fork(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        source = self._session(state, asked.session)
        if (refused := _refusal(source)) is not None:
            return state, refused
        return self._begin(state, asked.to or "", source.at, ("fork", asked.session))

    def _import(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        known = next((at for text, at in state.exported if text == asked.state), None)
        if known is None:
            raise Contradiction("the imported state was never exported")
        return self._begin(state, asked.session, known, ("import", asked.state))

    def _begin(self, state: ModelState, name: str, at: Lineage, request: Request) -> tuple[ModelState, Reply]:
        """Begin a session from a state instead of a step."""
        session = self._session(state, name)
        if session.phase == CLOSED:
            return state, Reply(410, "session_closed")
        if session.phase == LIVE:
            if session.beginning == request:
                return state, _told(name, session, replayed=True)
            return state, _conflict(session, "session_exists")
        begun = Session(LIVE, at, beginning=request)
        return self._with(state, name, begun), _told(name, begun)

    def _close(self, state: ModelState, asked: Invocation) -> tuple[ModelState, Reply]:
        session = self._session(state, asked.session)
        if session.phase == ABSENT:
            return state, Reply(404, "session_not_found")
        ended = self._with(state, asked.session, session._replace(phase=CLOSED, kept=()))
        return ended, _told(asked.session, session, closed=True)

    _RULES: dict[str, Callable[["Specification", ModelState, Invocation], tuple[ModelState, Reply]]] = {  # noqa: RUF012  # constant
        "step": _step,
        "describe": _describe,
        "export": _describe,
        "rewind": _rewind,
        "fork": _fork,
        "import": _import,
        "close": _close,
    }

    # Compare a recorded answer with the right one.

    def follow(self, state: ModelState, operation: Operation) -> ModelState:
        """Return the model state after an operation whose answer is known.

        Raises:
            Contradiction: the answer is not the right one in this model state.
        """
        asked, answer = operation.invocation, operation.answer
        after, reply = self.perform(state, operation)
        if asked.action == "rewind" and answer.status == 422 and self.keep is None and reply.status in (200, 422) and not reply.replayed:
            return state  # how many earlier states the service keeps is unknown
        self._compare(reply, answer)
        if asked.action == "export" and answer.status == 200:
            return self._exported(after, self._session(after, asked.session).at, answer)
        return self._recorded(after, asked, reply, answer) if reply.after is not None and asked.commit else after

    def _compare(self, reply: Reply, answer: Answer) -> None:
        generation = reply.generation if self.generations else None
        right = Answer(reply.status, reply.code, reply.session, reply.step, generation, reply.replayed, reply.closed, reply.expected)
        if right.generation != answer.generation or any(getattr(right, name) != getattr(answer, name) for name in COMPARED):
            raise Contradiction(f"right there would be {right}")
        if reply.after is not None:
            self._compare_predictions(reply.after, answer.prediction)
        if reply.stored is not None and reply.stored != _hashable(answer.prediction):
            raise Contradiction(f"the repetition was answered {answer.prediction}, the step itself {reply.stored}")

    def _compare_predictions(self, after: Lineage, prediction: Any) -> None:
        found = difference(after, prediction)
        if not found <= self.lineages.model.tolerance:  # false for a NaN
            offline = np.array2string(after.y, threshold=8, edgeitems=2)
            raise Contradiction(
                f"the prediction {prediction} is not the offline one after {after.position} steps, {offline}: {found:.1e} apart"
            )
        self.largest = max(self.largest, found)

    def _recorded(self, state: ModelState, asked: Invocation, reply: Reply, answer: Answer) -> ModelState:
        """Remember a prediction, because every repetition must repeat it to the digit."""
        session = self._session(state, asked.session)
        if session.last is None or reply.stored is not None:
            return state
        last = session.last._replace(prediction=_hashable(answer.prediction))
        return self._with(state, asked.session, session._replace(last=last))

    def _exported(self, state: ModelState, at: Lineage, answer: Answer) -> ModelState:
        if answer.state is None:
            raise Contradiction("an export without a state")
        if any(text == answer.state for text, _ in state.exported):
            return state
        return state._replace(exported=state.exported | {(answer.state, at)})


def _repeats_step(session: Session, asked: Invocation, request: Request) -> bool:
    """Whether a step is the one that was applied last, asked again."""
    last = session.last
    if last is None or asked.step is None or (last.step, last.request) != (asked.step, request):
        return False
    return asked.generation in (None, last.generation)


def _told(name: str, session: Session, replayed: bool = False, closed: bool = False, after: Lineage | None = None) -> Reply:
    return Reply(200, "", name, session.at.position, replayed, closed, generation=session.generation, after=after)


def _replay(name: str, session: Session) -> Reply:
    assert session.last is not None  # the request that is repeated
    told = _told(name, session, replayed=True, closed=session.phase == CLOSED, after=session.at)
    return told._replace(stored=session.last.prediction)


def _conflict(session: Session, code: str = "step_conflict") -> Reply:
    return Reply(409, code, expected=session.at.position, generation=session.generation)


def _refusal(session: Session) -> Reply | None:
    """Return what every action but a beginning or a close is answered where there is no live session."""
    refusals = {ABSENT: Reply(404, "session_not_found"), CLOSED: Reply(410, "session_closed")}
    return refusals.get(session.phase)


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def difference(after: Lineage, prediction: Any) -> float:
    """Return the largest scaled difference to the offline prediction; infinite for another shape, or for what is no array of numbers."""
    try:
        found: Array = np.array(prediction, np.float64)
    except (TypeError, ValueError):
        return np.inf
    return float(np.abs(found - after.y).max()) / after.scale if found.shape == after.y.shape else np.inf
