"""One request on its way through the service."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from handlers.arrays import Array, Floats, Vector
from handlers.engine.request import Request, Result, StepResults
from handlers.errors import CellstateError
from handlers.forecasting.memory import EMPTY, StreamMemory
from handlers.keys import ANYONE, Caller
from handlers.sessions.machine import Transition
from handlers.sessions.record import Record
from handlers.sessions.reference import AnyRef
from handlers.sessions.tenancy import session_name


class ModelRun(Struct):
    """What is to run for a task: inputs, the state before them, and the position of that state."""

    inputs: Array  # [T, F] or [T]
    state: Vector  # [S]
    position: int
    record: Record | None = None  # the session's before the step; None for a new session, or without one
    generation: int = 0  # of a new session
    rewarmed: int = 0  # recent inputs that run before the request's own, to rebuild the state
    memory: StreamMemory = EMPTY  # before the step
    missing: int = 0  # values among the request's own inputs that are to be imputed
    missing_in_a_row: int = 0  # steps up to the last one that lack a value
    time: int | None = None  # of the last input, where the stream has times
    observed: Floats | None = None  # [T, O], what came for each output, NaN where it is missing, where the stream learns from it
    future: Floats | None = None  # [horizon, K], the inputs known in advance, where the service derives some


class ReplyEncoder(Protocol):
    """Turns results into replies, before anything is committed. Raises TooLarge where a reply cannot be sent."""

    def encode(self, result: Result) -> Any: ...

    @staticmethod
    def encode_steps(calls: Sequence[Any], results: StepResults) -> Sequence[Any]:
        """Encode the result of one step of each of the calls, which are of this class."""


class Task(Struct):
    """One request. It ends with a `reply` or an `error`. `call` is what the request came with, and encodes its reply."""

    request: Request
    call: ReplyEncoder
    caller: Caller = ANYONE
    id: str = ""  # the session's, made by the server where the client gave none
    request_hash: bytes = b""
    names: tuple[str, ...] = ()  # of the sessions that the request touches: its own, then the one that a fork makes
    reply: Any = None
    error: CellstateError | None = None
    transition: Transition | None = None  # what happened to the session
    run: ModelRun | None = None  # what is still to run
    scored: Sequence[int] = (0, 0, 0)  # predictions scored, of those covered, and drifts that began
    depends_on: tuple[str, ...] | None = None  # the sessions whose commit must succeed for the reply to be valid; None: all of `names`

    @property
    def ref(self) -> AnyRef:
        assert self.request.session is not None  # only asked of requests that name a session
        return self.request.session

    def reset(self) -> None:
        """Forget an attempt that lost: another worker changed the session first."""
        self.reply, self.error, self.transition, self.run, self.depends_on = None, None, None, None, None
        self.scored = (0, 0, 0)


def touched(ref: AnyRef, tenant: str, id: str) -> tuple[str, ...]:
    """Return the names of the sessions that a request of `tenant` touches: its own, called `id`, then the one that a fork makes."""
    own = session_name(tenant, id)
    return (own,) if ref.to is None else (own, session_name(tenant, ref.to))


def fail(tasks: Iterable[Task], error: CellstateError) -> None:
    """Answer all the tasks with `error`."""
    for task in tasks:
        task.reply, task.error = None, error


def depending_on(tasks: Iterable[Task], names: Collection[str]) -> list[Task]:
    """Return the tasks whose reply is valid only if the commit of one of these sessions succeeds."""
    return [task for task in tasks if any(name in names for name in task.depends_on or task.names)]
