"""Search for an order of a partition's operations that explains every answer.

The algorithm is Wing and Gong's, with Lowe's memory of the places already visited. An operation may come next when no other remaining
operation had ended before it began. An operation without a known answer may come anywhere after its start, or never.

J. M. Wing, C. Gong: Testing and Verifying Concurrent Objects, 1993. G. Lowe: Testing for linearizability, 2017.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from loadtests.history import Operation
from loadtests.oracle.specification import Contradiction, ModelState, Specification

LIMIT = 300_000  # places visited before a partition is given up as undecided
READS = frozenset({"describe", "export"})


@dataclass(frozen=True, slots=True)
class Place:
    """How far an order has come: the operations in it, as bits, and the model state after them."""

    known: int
    unknown: int
    state: ModelState


@dataclass
class Verdict:
    """An order that explains every answer; or the longest order found, and why no operation can follow it."""

    order: list[Operation] = field(default_factory=list)
    state: ModelState | None = None
    problems: list[tuple[Operation, str]] = field(default_factory=list)
    undecided: bool = False
    visited: int = 0

    @property
    def explained(self) -> bool:
        return not self.problems and not self.undecided


class Search:
    """The search over one partition; use it once.

    Args:
        specification: the rules of the partition's sessions.
        operations: all operations of the partition.
        limit: how many places to visit before giving up.
        non_atomic: whether a fork may read its source at one moment and begin at a later one.
    """

    def __init__(self, specification: Specification, operations: Sequence[Operation], limit: int = LIMIT, non_atomic: bool = False) -> None:
        self._rules, self._limit = specification, limit
        by_start = sorted(operations, key=lambda o: o.start)
        self._known = [o for o in by_start if o.known]
        self._unknown = [o for o in by_start if o.unknown and o.invocation.action not in READS and o.invocation.commit]
        self._forks = [o for o in by_start if non_atomic and o.invocation.action == "fork" and not o.answer.not_applied]
        self._requests = [replace(o.invocation, client="", server=0) for o in self._unknown]
        self._seen: set[Place] = set()

    def run(self) -> Verdict:
        """Search depth first, visiting each place once."""
        place = Place(0, 0, self._rules.beginning)
        order: list[Operation] = []
        path = [self._next(place)] if self._known else []
        best, farthest = place, list[Operation]()
        while path:
            found = next(path[-1], None)
            if found is None:
                path.pop()
                order[-1:] = []
                continue
            operation, place = found
            if place in self._seen:
                continue
            self._seen.add(place)
            order.append(operation)
            path.append(self._next(place))
            if place.known.bit_count() > best.known.bit_count():
                best, farthest = place, list(order)
                if best.known.bit_count() == len(self._known):
                    return Verdict(order, place.state, visited=len(self._seen))
            if len(self._seen) > self._limit:
                return Verdict(farthest, best.state, undecided=True, visited=len(self._seen))
        return Verdict(farthest, best.state, self._stuck(best), visited=len(self._seen))

    def _next(self, place: Place) -> Iterator[tuple[Operation, Place]]:
        """Yield the operations that may come next, each with the place after it.

        An operation that changes nothing is taken at once: no later place would suit it better.
        """
        window, end = self._window(place.known)
        changes = []
        for i in window:
            try:
                state = self._rules.follow(place.state, self._known[i])
            except Contradiction:
                continue
            found = self._known[i], replace(place, known=place.known | 1 << i, state=state)
            if state == place.state:
                yield found
                return
            changes.append(found)
        yield from changes
        yield from self._unanswered(place, end)
        yield from self._fork_reads(place, end)

    def _window(self, done: int) -> tuple[list[int], float]:
        """Return which of the known operations may come next, and when the first of them ended."""
        first = (~done & (done + 1)).bit_length() - 1
        end, window = math.inf, []
        for i in range(first, len(self._known)):
            if self._known[i].start > end:
                break
            if not done >> i & 1:
                window.append(i)
                end = min(end, self._known[i].end)
        return [i for i in window if self._known[i].start <= end], end

    def _unanswered(self, place: Place, end: float) -> Iterator[tuple[Operation, Place]]:
        """Yield the operations of unknown outcome that would change something; of equal requests only the first that was sent."""
        tried = set()
        for i, operation in enumerate(self._unknown):
            if operation.start > end:
                return
            if place.unknown >> i & 1 or self._requests[i] in tried:
                continue
            tried.add(self._requests[i])
            try:
                state, _ = self._rules.perform(place.state, operation)
            except Contradiction:
                continue
            if state != place.state:
                yield operation, replace(place, unknown=place.unknown | 1 << i, state=state)

    def _fork_reads(self, place: Place, end: float) -> Iterator[tuple[Operation, Place]]:
        """Yield the forks that have not begun yet and may read their source now."""
        for operation in self._forks:
            if operation.start > end:
                return
            state = self._rules.read_source(place.state, operation)
            if state != place.state and not self._done(place, operation):
                yield operation, replace(place, state=state)

    def _done(self, place: Place, operation: Operation) -> bool:
        bits, among = (place.known, self._known) if operation.known else (place.unknown, self._unknown)
        return bool(bits >> among.index(operation) & 1)

    def _stuck(self, place: Place) -> list[tuple[Operation, str]]:
        """Return what each operation that may come next contradicts, in the order in which the operations ended."""
        problems = []
        for i in self._window(place.known)[0]:
            try:
                self._rules.follow(place.state, self._known[i])
            except Contradiction as e:
                problems.append((self._known[i], str(e)))
        return sorted(problems, key=lambda p: p[0].end)
