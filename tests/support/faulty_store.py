"""A store that fails where a test says, and a client that sends again until it is answered."""

from collections.abc import Callable, Sequence
from typing import Any

from handlers.errors import StoreUnavailable
from handlers.stores.base import Change, Entry, Store
from tests.conftest import ask
from tests.support.in_process import InProcess
from tests.support.store_wrappers import Wrapped

READ, BEFORE, AFTER, HALF = "on read", "before the write", "after the write", "after half of the writes"
FAULTS = (READ, BEFORE, AFTER, HALF)


class Faulty(Wrapped):
    """Passes every call on. The n-th read or commit fails as `plan[n]` says, where that is a fault of its kind."""

    def __init__(self, store: Store, plan: Callable[[int], str | None]) -> None:
        super().__init__(store)
        self._plan = plan
        self.calls = self.faults = 0

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        if self._next() == READ:
            raise self._failure()
        return super().get_many(keys)

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        fault = self._next()
        written = {BEFORE: 0, HALF: len(changes) // 2, AFTER: len(changes)}.get(fault or "")
        if written is None:
            return super().commit_many(changes)
        super().commit_many(changes[:written])
        raise self._failure()

    def _next(self) -> str | None:
        self.calls += 1
        return self._plan(self.calls - 1)

    def _failure(self) -> StoreUnavailable:
        self.faults += 1
        return StoreUnavailable("store: it failed because the test said so; whether it was applied is not known")


def once(index: int, fault: str) -> Callable[[int], str | None]:
    """That fault at that call and at no other."""
    return lambda n: fault if n == index else None


def insist(service: InProcess, *requests: Any, tries: int = 50) -> list[dict[str, Any]]:
    """Send each request, all that are unanswered in one batch, until every one is served. Any refusal but a retryable one is a failure."""
    replies: dict[int, dict[str, Any]] = {}
    for _ in range(tries):
        waiting = [i for i in range(len(requests)) if i not in replies]
        if not waiting:
            return [replies[i] for i in range(len(requests))]
        for i, (status, reply) in zip(waiting, ask(service, *(requests[i] for i in waiting)), strict=True):
            if status == 200:
                replies[i] = reply
            else:
                assert (status, reply["error"].get("retryable")) == (503, True), reply
    raise AssertionError(f"not answered after {tries} tries")
