"""Check the earlier states that a store keeps apart from the records of its sessions."""

from collections.abc import Sequence

import numpy as np

from handlers.sessions.kept import unpack_kept
from handlers.sessions.record import Record
from handlers.sessions.state import CorruptState
from handlers.stores.base import Entry, Store


def problems_of_kept(store: Store, key: bytes, entry: Entry, record: Record | None) -> Sequence[str]:
    """Return what is wrong with the earlier states of a session; nothing if a server changed the session since `entry` was read."""
    if record is None or not record.stored:
        return []
    parts = store.get_parts(key, record.stored)
    found = [
        f"its earlier state at {at} {text}" for at, part in zip(record.stored, parts, strict=True) if (text := _wrong(record, at, part))
    ]
    return found if found and store.get_many([key]) == [entry] else []


def _wrong(record: Record, position: int, part: bytes | None) -> str:
    """Say what is wrong with one earlier state; an empty string where it is sound."""
    if part is None:
        return "is missing"
    try:
        kept = unpack_kept(part)
    except CorruptState as e:
        return f"cannot be read ({e})"
    if (kept.position, kept.digest, kept.values.size) != (position, record.state.digest, record.state.values.size):
        return "is another one"
    return "" if np.isfinite(kept.values).all() else "is not finite"
