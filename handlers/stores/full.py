"""Commit what a full store still has room for."""

from collections.abc import Sequence

from handlers.stores.base import Change, Store, StoreFull


def commit_in_parts(store: Store, changes: Sequence[Change]) -> list[bool]:
    """Commit all changes at once; where the store has no room for that, half of them at a time.

    A transaction of LMDB writes copies of its pages, and those that it replaced are free only for the transactions after it: a full store
    that has no room for the copies of a whole batch has room for those of a few sessions. A change that does not fit fails alone.

    Raises:
        StoreFull: there was no room for some changes; `applied` tells which.
    """
    try:
        return store.commit_many(changes)
    except StoreFull as e:
        if len(changes) == 1:
            raise StoreFull(e.message, e.public, [None]) from e
    half = len(changes) // 2
    parts = [_commit(store, changes[:half]), _commit(store, changes[half:])]
    applied = [done for part, _ in parts for done in part]
    for _, full in parts:
        if full is not None:
            raise StoreFull(full.message, full.public, applied) from full
    return [bool(done) for done in applied]


def _commit(store: Store, changes: Sequence[Change]) -> tuple[Sequence[bool | None], StoreFull | None]:
    try:
        return commit_in_parts(store, changes), None
    except StoreFull as e:
        return e.applied, e
