"""How a request refers to a session: which one, where the client believes it to be, and what to do with it."""

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

MAX_STEP = 2**53  # the largest integer that every JSON client keeps exact
Count = Annotated[int, Meta(ge=0, le=MAX_STEP)]


class Action(StrEnum):
    """What a request does with a session; the only list of actions. STEP is implied where a request names no action."""

    STEP = "step"
    DESCRIBE = "describe"
    CLOSE = "close"
    FORK = "fork"
    REWIND = "rewind"
    EXPORT = "export"
    IMPORT = "import"


NAMED_ACTIONS = tuple(action for action in Action if action is not Action.STEP)


class SessionRef(Struct):
    """A request's reference to a session.

    `step` is the position that the client believes the session to be at, or the one that a rewind goes back to; `from_step` is where the
    client believes a session to be before its rewind. `generation` is the one that the client last saw. `restart` starts the session anew,
    whatever it was: for protocols whose first step means that.
    """

    id: str | None = None  # None: the server makes one
    step: int | None = None
    action: Action = Action.STEP
    to: str | None = None
    from_step: int | None = None
    generation: int | None = None
    restart: bool = False


class StepRef(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A reference to a session for a step, as most requests have it; it can be read as a `SessionRef`."""

    id: str
    step: Count | None = None
    generation: Count | None = None
    action: ClassVar[Action] = Action.STEP
    to: ClassVar[str | None] = None
    from_step: ClassVar[int | None] = None
    restart: ClassVar[bool] = False


AnyRef = SessionRef | StepRef
