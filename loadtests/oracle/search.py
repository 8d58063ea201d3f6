"""The search for an order of a family's operations that explains every answer: Wing and Gong's, with Lowe's memory of where it has been.

An operation may be put next when no other that is still to come had ended before it began. One without a known answer may be put anywhere
after its start, or nowhere. It knows operations and a specification; it does not know files or reports.

J. M. Wing, C. Gong: Testing and Verifying Concurrent Objects, 1993. G. Lowe: Testing for linearizability, 2017.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from loadtests.history import Operation
from loadtests.oracle.specification import Contradiction, Specification, World

LIMIT = 300_000  # places looked at before a family is given up as undecided
READS = frozenset({"describe", "export"})


@dataclass(frozen=True, slots=True)
class Place:
    """How far an order has come: sets of operations as bits, and the world behind them."""

    known: int
    unknown: int
    world: World


@dataclass
class Verdict:
    """An order that explains everything; or where the best attempt ended, and why nothing can come next there."""

    order: list[Operation] = field(default_factory=list)
    world: World | None = None
    problems: list[tuple[Operation, str]] = field(default_factory=list)
    undecided: bool = False
    looked_at: int = 0

    @property
    def explained(self) -> bool:
        return not self.problems and not self.undecided


class Search:
    """One family's. `torn` lets a fork look at its source at one moment of its time and begin at a later one. Discard it afterwards."""

    def __init__(self, specification: Specification, operations: Sequence[Operation], limit: int = LIMIT, torn: bool = False) -> None:
        self._rules, self._limit = specification, limit
        by_start = sorted(operations, key=lambda o: o.start)
        self._known = [o for o in by_start if o.known]
        self._unknown = [o for o in by_start if o.unknown and o.ask.action not in READS and o.ask.commit]
        self._forks = [o for o in by_start if torn and o.ask.action == "fork" and not o.answer.nothing]
        self._requests = [replace(o.ask, who="", server=0) for o in self._unknown]
        self._seen: set[Place] = set()

    def run(self) -> Verdict:
        """Depth first; each place once."""
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
                    return Verdict(order, place.world, looked_at=len(self._seen))
            if len(self._seen) > self._limit:
                return Verdict(farthest, best.world, undecided=True, looked_at=len(self._seen))
        return Verdict(farthest, best.world, self._stuck(best), looked_at=len(self._seen))

    def _next(self, place: Place) -> Iterator[tuple[Operation, Place]]:
        """The operations that may come next, each with the place behind it. One that changes nothing comes at once: later is no better."""
        window, end = self._window(place.known)
        changes = []
        for i in window:
            try:
                world = self._rules.follow(place.world, self._known[i])
            except Contradiction:
                continue
            found = self._known[i], replace(place, known=place.known | 1 << i, world=world)
            if world == place.world:
                yield found
                return
            changes.append(found)
        yield from changes
        yield from self._unanswered(place, end)
        yield from self._looks(place, end)

    def _window(self, done: int) -> tuple[list[int], float]:
        """Which of the known operations may come next, and when the first of them ended."""
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
        """Those of unknown fate that would change something; of equal requests the one that was sent first."""
        tried = set()
        for i, operation in enumerate(self._unknown):
            if operation.start > end:
                return
            if place.unknown >> i & 1 or self._requests[i] in tried:
                continue
            tried.add(self._requests[i])
            try:
                world, _ = self._rules.perform(place.world, operation)
            except Contradiction:
                continue
            if world != place.world:
                yield operation, replace(place, unknown=place.unknown | 1 << i, world=world)

    def _looks(self, place: Place, end: float) -> Iterator[tuple[Operation, Place]]:
        """Forks that have not begun yet, and may look at their source now."""
        for operation in self._forks:
            if operation.start > end:
                return
            world = self._rules.look(place.world, operation)
            if world != place.world and not self._done(place, operation):
                yield operation, replace(place, world=world)

    def _done(self, place: Place, operation: Operation) -> bool:
        bits, among = (place.known, self._known) if operation.known else (place.unknown, self._unknown)
        return bool(bits >> among.index(operation) & 1)

    def _stuck(self, place: Place) -> list[tuple[Operation, str]]:
        """What each operation that may come next contradicts, the one that ended first in front."""
        problems = []
        for i in self._window(place.known)[0]:
            try:
                self._rules.follow(place.world, self._known[i])
            except Contradiction as e:
                problems.append((self._known[i], str(e)))
        return sorted(problems, key=lambda p: p[0].end)
