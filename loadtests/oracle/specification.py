"""What a session is, one request at a time: docs/sessions.md written down a second time, by another hand than the service's.

`serve` is the whole of it: a world and a request in, the next world and the only right reply out. `follow` holds a recorded answer against
that reply. It does not know time, concurrency or HTTP; nothing of the service takes part.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from loadtests.history import Answer, Ask, Operation
from loadtests.load.expected import Array
from loadtests.oracle.lineages import Lineage, Lineages

Request = tuple[Any, ...]  # equal for a request and its repetition, and for no other
TOLD = ("status", "code", "session", "step", "replayed", "closed", "expected")  # by an answer, and compared as it is
ABSENT_PHASE, LIVE, CLOSED = "absent", "live", "closed"


class Last(NamedTuple):
    """The request that was applied last: the position before it, and the answer on record once one was seen."""

    step: int
    request: Request
    answer: Any = None


class Session(NamedTuple):
    """One session. `kept` are the earlier states that it can be rewound to, newest first."""

    phase: str
    at: Lineage
    last: Last | None = None
    kept: tuple[Lineage, ...] = ()


class World(NamedTuple):
    """The sessions of one family, what each state string that was handed out stands for, and what forks under way saw of their source."""

    sessions: tuple[Session, ...]
    exported: frozenset[tuple[str, Lineage]] = frozenset()
    looks: frozenset[tuple[int, Session]] = frozenset()  # by the operation's number


class Reply(NamedTuple):
    """The right answer. `after` is what its prediction follows from, `stored` what a repetition must repeat to the digit."""

    status: int
    code: str = ""
    session: str | None = None
    step: int | None = None
    replayed: bool = False
    closed: bool = False
    expected: int | None = None
    after: Lineage | None = None
    stored: Any = None


class Contradiction(Exception):
    """A recorded answer that is not the right one here; the text says why."""


class Specification:
    """The rules, for one family. `keep` is how many earlier states the service keeps; None: unknown, and any rewind may be refused."""

    def __init__(self, lineages: Lineages, names: Sequence[str], keep: int | None = None) -> None:
        self.lineages, self.keep, self.largest = lineages, keep, 0.0
        self.names, self._place = list(names), {name: i for i, name in enumerate(names)}
        self.beginning = World((Session(ABSENT_PHASE, lineages.root),) * len(self.names))

    def describe(self, world: World, name: str) -> str:
        """Where a session is, in words."""
        session = self._of(world, name)
        return f"{name} is {session.phase}" + (f" at {session.at.position}" if session.phase != ABSENT_PHASE else "")

    def serve(self, world: World, ask: Ask) -> tuple[World, Reply]:
        """What becomes of the world, and the reply. Raises Contradiction for the import of a state that nobody was given."""
        return self._RULES[ask.action](self, world, ask)

    def perform(self, world: World, operation: Operation) -> tuple[World, Reply]:
        """`serve`, but for a fork that looked at its source before: it is served as if that were still so."""
        ask = operation.ask
        look = next((look for look in world.looks if look[0] == operation.number), None)
        if look is None:
            return self.serve(world, ask)
        meanwhile = self._of(world, ask.session)
        after, reply = self.serve(self._with(world, ask.session, look[1])._replace(looks=world.looks - {look}), ask)
        return self._with(after, ask.session, meanwhile), reply

    def look(self, world: World, operation: Operation) -> World:
        """A fork under way looks at its source, once, and only where there is one."""
        source = self._of(world, operation.ask.session)
        if source.phase != LIVE or any(number == operation.number for number, _ in world.looks):
            return world
        return world._replace(looks=world.looks | {(operation.number, source)})

    def _of(self, world: World, name: str) -> Session:
        return world.sessions[self._place[name]]

    def _with(self, world: World, name: str, session: Session) -> World:
        sessions = list(world.sessions)
        sessions[self._place[name]] = session
        return world._replace(sessions=tuple(sessions))

    # The rules, an action each.

    def _step(self, world: World, ask: Ask) -> tuple[World, Reply]:
        assert ask.inputs is not None  # a step has some
        session, request = self._of(world, ask.session), ("step", self.lineages.content(ask.inputs))
        if _repeats(session, ask.step, request):
            return world, _replay(ask.session, session)
        if session.phase == ABSENT_PHASE and ask.step != 0:
            return world, Reply(404, "session_not_found")
        if session.phase == CLOSED:
            return world, Reply(410, "session_closed")
        here = session.at.position
        if ask.step not in (None, here):
            return world, Reply(409, "session_exists" if ask.step == 0 else "step_conflict", expected=here)
        after = self.lineages.behind(session.at, ask.inputs)
        if not ask.commit:
            return world, Reply(200, "", ask.session, here, after=after)
        applied = Session(LIVE, after, Last(here, request), (session.at, *session.kept)[: self.keep])
        return self._with(world, ask.session, applied), Reply(200, "", ask.session, after.position, after=after)

    def _describe(self, world: World, ask: Ask) -> tuple[World, Reply]:
        session = self._of(world, ask.session)
        return world, _refusal(session) or Reply(200, "", ask.session, session.at.position)

    def _rewind(self, world: World, ask: Ask) -> tuple[World, Reply]:
        session, request = self._of(world, ask.session), ("rewind", ask.step, ask.origin)
        if session.phase != ABSENT_PHASE and _repeats(session, session.at.position, request):
            return world, _replay(ask.session, session)
        if (refused := _refusal(session)) is not None:
            return world, refused
        here = session.at.position
        if ask.origin is not None and ask.origin != here:
            return world, Reply(409, "step_conflict", expected=here)
        target = next((kept for kept in (session.at, *session.kept) if kept.position == ask.step), None)
        if target is None:
            return world, Reply(422, "invalid_input")
        earlier = tuple(kept for kept in session.kept if kept.position < target.position)
        back = Session(LIVE, target, Last(target.position, request), earlier)
        return self._with(world, ask.session, back), Reply(200, "", ask.session, target.position)

    def _fork(self, world: World, ask: Ask) -> tuple[World, Reply]:
        source = self._of(world, ask.session)
        return (world, refused) if (refused := _refusal(source)) else self._begin(world, ask.to or "", source.at, ("fork", ask.session))

    def _import(self, world: World, ask: Ask) -> tuple[World, Reply]:
        known = next((at for text, at in world.exported if text == ask.state), None)
        if known is None:
            raise Contradiction("nobody had been given that state")
        return self._begin(world, ask.session, known, ("import", ask.state))

    def _begin(self, world: World, name: str, at: Lineage, request: Request) -> tuple[World, Reply]:
        """A session that begins with a state instead of a step."""
        session = self._of(world, name)
        if session.phase == CLOSED:
            return world, Reply(410, "session_closed")
        if session.phase == LIVE:
            if _repeats(session, session.at.position, request):
                return world, _replay(name, session)
            return world, Reply(409, "session_exists", expected=session.at.position)
        return self._with(world, name, Session(LIVE, at, Last(at.position, request))), Reply(200, "", name, at.position)

    def _close(self, world: World, ask: Ask) -> tuple[World, Reply]:
        session = self._of(world, ask.session)
        if session.phase == ABSENT_PHASE:
            return world, Reply(404, "session_not_found")
        ended = self._with(world, ask.session, session._replace(phase=CLOSED, kept=()))
        return ended, Reply(200, "", ask.session, session.at.position, closed=True)

    _RULES: dict[str, Callable[["Specification", World, Ask], tuple[World, Reply]]] = {  # noqa: RUF012  # never written to
        "step": _step,
        "describe": _describe,
        "export": _describe,
        "rewind": _rewind,
        "fork": _fork,
        "import": _import,
        "close": _close,
    }

    # Holding a recorded answer against the right one.

    def follow(self, world: World, operation: Operation) -> World:
        """The world behind an operation whose answer is known. Raises Contradiction."""
        ask, answer = operation.ask, operation.answer
        after, reply = self.perform(world, operation)
        if ask.action == "rewind" and answer.status == 422 and self.keep is None and reply.status in (200, 422) and not reply.replayed:
            return world  # how many it keeps is not known here
        self._compare(reply, answer)
        if ask.action == "export" and answer.status == 200:
            return self._handed_out(after, self._of(after, ask.session).at, answer)
        return self._recorded(after, ask, reply, answer) if reply.after is not None and ask.commit else after

    def _compare(self, reply: Reply, answer: Answer) -> None:
        right = Answer(reply.status, reply.code, reply.session, reply.step, reply.replayed, reply.closed, reply.expected)
        if any(getattr(right, name) != getattr(answer, name) for name in TOLD):
            raise Contradiction(f"right there would be {right}")
        if reply.after is not None:
            self._compare_predictions(reply.after, answer.prediction)
        if reply.stored is not None and reply.stored != _hashable(answer.prediction):
            raise Contradiction(f"the repetition was answered {answer.prediction}, the step itself {reply.stored}")

    def _compare_predictions(self, after: Lineage, prediction: Any) -> None:
        found = difference(after, prediction)
        if not found <= self.lineages.model.tolerance:  # a NaN is not
            offline = np.array2string(after.y, threshold=8, edgeitems=2)
            raise Contradiction(
                f"the prediction {prediction} is not the offline one after {after.position} steps, {offline}: {found:.1e} apart"
            )
        self.largest = max(self.largest, found)

    def _recorded(self, world: World, ask: Ask, reply: Reply, answer: Answer) -> World:
        """Remember the answer: whatever repeats it must repeat it to the digit."""
        session = self._of(world, ask.session)
        if session.last is None or reply.stored is not None:
            return world
        return self._with(world, ask.session, session._replace(last=session.last._replace(answer=_hashable(answer.prediction))))

    def _handed_out(self, world: World, at: Lineage, answer: Answer) -> World:
        if answer.state is None:
            raise Contradiction("an export without a state")
        if any(text == answer.state for text, _ in world.exported):
            return world
        return world._replace(exported=world.exported | {(answer.state, at)})


def _repeats(session: Session, step: int | None, request: Request) -> bool:
    return step is not None and session.last is not None and (session.last.step, session.last.request) == (step, request)


def _replay(name: str, session: Session) -> Reply:
    assert session.last is not None  # it repeats it
    after = session.at if session.last.request[0] == "step" else None
    return Reply(200, "", name, session.at.position, True, session.phase == CLOSED, None, after, session.last.answer)


def _refusal(session: Session) -> Reply | None:
    """What every action but a beginning or a close is told where there is no live session."""
    refusals = {ABSENT_PHASE: Reply(404, "session_not_found"), CLOSED: Reply(410, "session_closed")}
    return refusals.get(session.phase)


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def difference(after: Lineage, prediction: Any) -> float:
    """The largest difference to the offline prediction, scaled; infinite where it is none of that shape."""
    try:
        found: Array = np.array(prediction, np.float64)
    except (TypeError, ValueError):
        return np.inf
    return float(np.abs(found - after.y).max()) / after.scale if found.shape == after.y.shape else np.inf
