"""One request on its way through the service, and the order in which requests may run."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from handlers.errors import CellstateError, TooLarge
from handlers.inference.backends.base import Floats
from handlers.inference.batching import Row
from handlers.protocols.native.decode import Request, SessionRef
from handlers.sessions.machine import Move
from handlers.sessions.record import Record
from handlers.sessions.state import Vector


@dataclass(slots=True)
class Task:
    """One request; it ends with an `error` or a `reply`. `room` is the most bytes its reply may have."""

    request: Request
    room: int
    id: str = ""  # the session's, made by the server where the client gave none
    digest: bytes = b""
    reply: bytes = b""
    error: CellstateError | None = None
    move: Move | None = None  # what was done for a session
    ids: tuple[str, ...] = field(init=False)  # the sessions it touches
    hangs_on: tuple[str, ...] = field(init=False)  # those of them whose commit decides whether its answer stands

    def __post_init__(self) -> None:
        session = self.request.session
        self.ids = () if session is None else (self.id,) if session.to is None else (self.id, session.to)
        self.hangs_on = self.ids

    @property
    def ref(self) -> SessionRef:
        assert self.request.session is not None  # only asked of requests that name a session
        return self.request.session

    def begin_again(self) -> None:
        """As if untouched: another worker was first."""
        self.reply, self.error, self.move, self.hangs_on = b"", None, None, self.ids

    def fit(self, fragment: bytes) -> bytes:
        """`fragment` itself. Raises TooLarge before anything is changed: a reply that cannot be sent must not be committed."""
        if len(fragment) > self.room:
            raise TooLarge(
                f"reply: {len(fragment)} bytes, at most {self.room} here: send fewer steps or instances, or ask for less in return"
            )
        return fragment


@dataclass(slots=True)
class Step:
    """A task whose model run is due: what goes in, and where the session stands before it."""

    task: Task
    row: Row
    position: int
    record: Record | None = None  # of the session before the step; None for a new one, or without a session
    forecast: Floats | None = None
    rewarmed: int = 0  # recorded inputs that run before the request's own, to rebuild the state
    before: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.row.state


def waves(tasks: Iterable[Task]) -> list[list[Task]]:
    """Split tasks, in arrival order, so that no wave touches a session twice."""
    levels: dict[str, int] = {}
    result: list[list[Task]] = []
    for task in tasks:
        level = max((levels.get(id, 0) for id in task.ids), default=0)
        levels.update(dict.fromkeys(task.ids, level + 1))
        if level == len(result):
            result.append([])
        result[level].append(task)
    return result


def fail(tasks: Iterable[Task], error: CellstateError) -> None:
    for task in tasks:
        task.error = error


def hanging_on(tasks: Iterable[Task], ids: Collection[str]) -> list[Task]:
    return [task for task in tasks if any(id in ids for id in task.hangs_on)]
