"""One session as its client keeps it: where it is, and the exchange of each action. Does no input or output."""

import secrets
from collections.abc import Sequence
from typing import Any

from cellstate import wire
from cellstate.errors import CellstateError, DeadlineExceeded, ModelChanged, ModelNotFound, SessionNotFound, UnexpectedReply
from cellstate.exchange import Caller, Exchange
from cellstate.results import Result, SessionInfo
from cellstate.wire import Json


def new_id() -> str:
    """An unguessable session id of 128 random bits. The client makes it: a first step without one, sent twice, would make two sessions."""
    return secrets.token_urlsafe(16)


class Session:
    """Names every step of one session of one model.

    `position` is the number of steps that the service has acknowledged to this client, None until it is known. It changes only after an
    answer has been read, so that a call that failed or was cancelled can be made again: the same request then names the same step.
    `generation` is the number of the session's rewinds; it is sent once the service has told it. A session whose state belongs to an
    earlier version of the model goes on at that version until that is retired, unless `model` names a version.
    """

    def __init__(self, caller: Caller, model: str, id: str | None, position: int | None, create: bool) -> None:
        self.model, self.id = model, new_id() if id is None else id
        self.path = wire.path(model)  # or that of the version that has the state, once the service has told it
        self._caller, self._create = caller, create
        self.position = 0 if id is None else position
        self.generation: int | None = None

    def resume(self) -> Exchange[SessionInfo | None]:
        """Ask where the session is, and go on from there. None when it is absent: then the position is 0.

        Raises SessionNotFound when it is absent and may not be created, SessionExpired, SessionClosed.
        """
        try:
            answer: Result | CellstateError = yield from self._act("describe")
        except SessionNotFound as e:
            answer = e
        return self.found(answer)

    def found(self, answer: Result | CellstateError) -> SessionInfo | None:
        """Go on from what `describe` answered; see `resume`."""
        if isinstance(answer, SessionNotFound) and self._create:
            self.position, self.generation = 0, None
            return None
        if isinstance(answer, CellstateError):
            raise answer
        self._move(info := answer.session)
        return info

    def locate(self) -> Exchange[int]:
        """Return the position, asked for when it is not known."""
        if self.position is None:
            yield from self.resume()
        return self.known_position()

    def known_position(self) -> int:
        """Return the position. Raises RuntimeError before it is known."""
        if self.position is None:
            raise RuntimeError(f"the position of session {self.id} is not known yet: enter the stream, or call resume()")
        return self.position

    def step(self, document: Json) -> Exchange[Result]:
        """Apply a request at the session's position."""
        yield from self.locate()
        result = Result((yield from self._post(self.at_position(document))))
        self.acknowledge(result)
        return result

    def what_if(self, document: Json) -> Exchange[Result]:
        """Answer a request at the session's position, and leave the session where it is."""
        yield from self.locate()
        return Result((yield from self._post(self.at_position(document) | {"commit": False})))

    def at_position(self, document: Json) -> Json:
        """Return the request with session, step and generation named."""
        return document | {"session": {"id": self.id, "step": self.position} | self._generation()}

    def acknowledge(self, result: Result) -> None:
        """Move to where the answer says the session is."""
        self._move(result.session)

    def describe(self) -> Exchange[SessionInfo]:
        """Ask where the service has the session, and change nothing."""
        return (yield from self._act("describe")).session

    def close(self) -> Exchange[SessionInfo]:
        """End the session on the server."""
        return (yield from self._act("close")).session

    def export(self) -> Exchange[str]:
        """Ask for state and position as one opaque string."""
        return (yield from self._act("export")).state

    def rewind(self, step: int) -> Exchange[SessionInfo]:
        """Go back to a kept position. The request names the position it comes from, so that a late duplicate of it changes nothing."""
        position = yield from self.locate()
        info = (yield from self._act("rewind", step=step, **{"from": position}, **self._generation())).session
        self._move(info)
        return info

    def fork(self, to: str | None) -> Exchange["Session"]:
        """Start another session where this one is."""
        forked = Session(self._caller, self.model, new_id() if to is None else to, None, self._create)
        forked.acknowledge((yield from self._act("fork", to=forked.id)))
        return forked

    def restore(self, state: str) -> Exchange[SessionInfo]:
        """Create this session from an exported state, at the state's position."""
        result = Result((yield from self._caller.post(self.path, self.action("import") | {"state": state})))
        self.acknowledge(result)
        return result.session

    def action(self, action: str, **fields: Any) -> Json:
        """Return the request of an action."""
        return {"session": {"id": self.id, "action": action, **fields}}

    def follow(self, error: ModelChanged | ModelNotFound) -> bool:
        """Go on at the version that has the session's state, or, where that is gone, at the default, to which its sessions were moved.

        False where there is no other place to go on at, or `model` names a version.
        """
        version = error.version if isinstance(error, ModelChanged) else ""
        if version is None or "/" in self.model:
            return False
        before, self.path = self.path, wire.path(f"{self.model}/{version}" if version else self.model)
        return self.path != before

    def _act(self, action: str, **fields: Any) -> Exchange[Result]:
        return Result((yield from self._post(self.action(action, **fields))))

    def _post(self, document: Json) -> Exchange[Json]:
        """Post to the model, or to the version of it that has the session's state."""
        try:
            return (yield from self._caller.post(self.path, document))
        except (ModelChanged, ModelNotFound) as e:
            if not self.follow(e):
                raise
        return (yield from self._caller.post(self.path, document))

    def _generation(self) -> Json:
        return {} if self.generation is None else {"generation": self.generation}

    def _move(self, info: SessionInfo) -> None:
        if info.id != self.id:
            raise UnexpectedReply(f"expected an answer for session {self.id}, got one for {info.id}")
        self.position, self.generation = info.step, info.generation


def predict(caller: Caller, model: str, document: Json) -> Exchange[Result]:
    """Answer one request without a session."""
    return Result((yield from caller.post(wire.path(model), document)))


def batch(caller: Caller, rows: Sequence[tuple[Session, Json]]) -> Exchange[list[Result | CellstateError]]:
    """Step many sessions of one model in one body. No session moves before every row has its final answer."""
    sessions = [session for session, _ in rows]
    if len({session.model for session in sessions}) > 1:
        raise ValueError("a batch goes to one model: make a batch for each")
    if len({session.id for session in sessions}) < len(sessions):
        raise ValueError("a session is in the batch twice: send its steps as one input of several rows")
    answers: dict[str, Result | CellstateError] = {}
    answers.update((yield from _locate(caller, [session for session in sessions if session.position is None])))
    ready = [(session, document) for session, document in rows if session.id not in answers]
    steps = [(session, session.at_position(document)) for session, document in ready]
    results = yield from _post_rows(caller, steps)
    for session, _ in ready:
        if isinstance(result := results[session.id], Result):
            session.acknowledge(result)
    return [(answers | results)[session.id] for session in sessions]


def _locate(caller: Caller, sessions: Sequence[Session]) -> Exchange[dict[str, CellstateError]]:
    """Ask in one body where the sessions are; the errors of those that cannot be served, by id."""
    errors: dict[str, CellstateError] = {}
    answers = yield from _post_rows(caller, [(session, session.action("describe")) for session in sessions])
    for session in sessions:
        try:
            session.found(answers[session.id])
        except CellstateError as e:
            errors[session.id] = e
    return errors


def _post_rows(caller: Caller, rows: Sequence[tuple[Session, Json]]) -> Exchange[dict[str, Result | CellstateError]]:
    """The answer to each session's document, by id: in one body, and one more for each version that has the state of some.

    A body that is refused as a whole is the error of its rows. Raises it when no row of any body was answered.
    """
    answers: dict[str, Result | CellstateError] = {}
    waiting, refusals, is_answered = list(rows), list[CellstateError](), False
    while waiting:
        path = waiting[0][0].path
        here, waiting = [row for row in waiting if row[0].path == path], [row for row in waiting if row[0].path != path]
        try:
            replies = yield from caller.post_rows(path, [document for _, document in here])
            is_answered = True
        except DeadlineExceeded as e:  # no time is left for the others
            here, waiting = here + waiting, []
            refusals.append(e)
            replies = [e] * len(here)
        except CellstateError as e:
            refusals.append(e)
            replies = [e] * len(here)
        for row, reply in zip(here, replies, strict=True):
            session = row[0]
            has_moved = isinstance(reply, ModelChanged | ModelNotFound) and session.id not in answers and session.follow(reply)
            answers[session.id] = reply if isinstance(reply, CellstateError) else Result(reply)
            waiting += [row] if has_moved else []
    if refusals and not is_answered:
        raise refusals[0]
    return answers
