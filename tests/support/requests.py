"""What a client of a stream says, and what it looks at in the answers."""

from typing import Any

import orjson

from handlers.stores.base import Store
from tests.conftest import ask
from tests.support.in_process import InProcess

EVERYTHING = ["prediction", "output", "h_n", "c_n", "state"]
ARRAYS = EVERYTHING[:-1]


def step(id: str | None, at: int | None, x: Any, **more: Any) -> dict[str, Any]:
    """A step request: the session believed to be at `at`."""
    session = {name: value for name, value in (("id", id), ("step", at)) if value is not None}
    return {"inputs": x.tolist(), "session": session, **more}


def act(id: str, action: str, **more: Any) -> dict[str, Any]:
    """An action; `to` belongs to the session field, all else beside it."""
    to = {"to": more.pop("to")} if "to" in more else {}
    return {"session": {"id": id, "action": action, **to}, **more}


def fields(body: bytes) -> bytes:
    """The result's bytes of a reply: all before the model, which is the same for all."""
    return body[: body.index(b'"model":')]


def contents(store: Store) -> dict[bytes, Any]:
    """All that the store holds."""
    return dict(store.scan(b""))


def position(service: InProcess, id: str) -> int | str:
    """Where a session is, or the code of why it cannot be told."""
    [(_, reply)] = ask(service, act(id, "describe"))
    return reply["session"]["step"] if "session" in reply else reply["error"]["code"]


def raw(service: InProcess, item: dict[str, Any]) -> bytes:
    """One reply's bytes, served."""
    [outcome] = service.handle_batch([orjson.dumps(item)])
    assert outcome.status == 200, outcome.body
    return outcome.body
