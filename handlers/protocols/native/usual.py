"""Decodes request objects in their usual form, steps of sessions and windows of numbers, straight into typed objects.

What is in any other form, or wrong, is for `decode.Parser` to look at: it knows all fields and says what is wrong with them.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.json import Decoder

from handlers.protocols.validation import MAX_STEP

Count = Annotated[int, Meta(ge=0, le=MAX_STEP)]


class UsualSession(Struct, forbid_unknown_fields=True):
    """A reference to a session for a step."""

    id: str
    step: Count | UnsetType = UNSET
    generation: Count | UnsetType = UNSET


class UsualRequest(Struct, forbid_unknown_fields=True, rename={"returns": "return"}):
    """A request object with numbers for all features."""

    inputs: list[list[float]]
    session: UsualSession | UnsetType = UNSET
    returns: list[str] | UnsetType = UNSET


class UsualInstances(Struct, forbid_unknown_fields=True):
    """A body with many request objects."""

    instances: list[UsualRequest]


ONE, MANY = Decoder(UsualRequest), Decoder(UsualInstances)


def read(body: bytes) -> tuple[list[UsualRequest], bool] | None:
    """Decode a body into its request objects, and whether they came as `instances`; None where it is in any other form.

    Each colon belongs to one of the fields, or to an id: there are more where a field is given twice. An escape could hide one.
    """
    if b"\\" in body:
        return None
    is_batch = b'"instances"' in body
    try:
        requests = MANY.decode(body).instances if is_batch else [ONE.decode(body)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return (requests, is_batch) if body.count(b":") == is_batch + sum(map(_count_colons, requests)) else None


def _count_colons(request: UsualRequest) -> int:
    session = request.session
    count = 1 if request.returns is UNSET else 2
    if session is UNSET:
        return count
    return count + 2 + (session.step is not UNSET) + (session.generation is not UNSET) + session.id.count(":")
