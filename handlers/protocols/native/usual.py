"""Decodes request objects in their usual form, steps of sessions and windows of numbers, straight into typed objects.

What is in any other form, or wrong, is for `decode.Parser` to look at: it knows all fields and says what is wrong with them.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.json import Decoder

from handlers.sessions.reference import StepRef


class UsualRequest(Struct, forbid_unknown_fields=True, omit_defaults=True, rename={"returns": "return"}):
    """A request object with numbers for all features."""

    inputs: list[list[float]]
    session: StepRef | str | None = None
    returns: list[str] | None = None


class UsualInstances(Struct, forbid_unknown_fields=True):
    """A body with many request objects."""

    instances: list[UsualRequest]


ONE, MANY = Decoder(UsualRequest), Decoder(UsualInstances)


def read(body: bytes) -> tuple[list[UsualRequest], bool] | None:
    """Decode a body into its request objects, and whether they came as `instances`; None where it is in any other form.

    A field that is null is in another form. Each colon belongs to one of the fields, or to an id: there are more where a field is given
    twice. An escape could hide one.
    """
    if b"\\" in body or b"null" in body:
        return None
    is_batch = b'"instances"' in body
    try:
        requests = MANY.decode(body).instances if is_batch else [ONE.decode(body)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return (requests, is_batch) if body.count(b":") == is_batch + _count_colons(requests) else None


def _count_colons(requests: list[UsualRequest]) -> int:
    sessions = [request.session for request in requests if request.session is not None]
    return len(requests) + sum([request.returns is not None for request in requests]) + colons_of(sessions)


def colons_of(sessions: Sequence[StepRef | str]) -> int:
    """Return how many colons there are in the fields `session` of request objects, in their names and values."""
    count = 0
    for session in sessions:
        if isinstance(session, str):
            count += 1 + session.count(":")
        else:
            count += 2 + (session.step is not None) + (session.generation is not None) + session.id.count(":")
    return count
