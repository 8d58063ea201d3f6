"""What the chaos client's streams do: each feeds a session, and does to it what a network, a second client and a nervous user do.

A stream follows its session: it believes what an answer says of the position, whoever moved it. It knows requests; it does not know
whether an answer is right, and nothing of killing.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.chaos.caller import Caller
from loadtests.history import Answer, Ask

MOST_ROWS = 6  # of one request
HURRY = -3.3, -0.7  # powers of ten: seconds that a hasty client waits
BALLAST = 2_400  # rows, the pool's first, that keep a worker busy between reading sessions and committing them
LATE = 0.01, 2.0  # seconds that a delayed duplicate is under way
ROOM = 5  # sessions of a family
BRANCH = 0.5  # of a family's remaining requests that a fork's or an import's stream may have


@dataclass
class Family:
    """What the streams of related sessions share."""

    name: str
    stop: float  # monotonic time at which they end
    sessions: int = 1
    running: set[asyncio.Task[Any]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run beside whatever else runs."""
        self.running.add(asyncio.ensure_future(work))

    async def finish(self) -> None:
        """Wait for all of it."""
        while self.running:
            done, _ = await asyncio.wait(self.running)
            self.running -= done
            for task in done:
                task.result()


class Stream:
    """One session's client, and its rivals. `budget` bounds what it does; `rows` is the length of the pool."""

    def __init__(self, caller: Caller, family: Family, id: str, seed: str, rows: int, budget: int, position: int = 0) -> None:
        self._caller, self._family, self.id, self._seed, self._draw = caller, family, id, seed, random.Random(seed)
        self._rows, self._budget, self._position = rows, budget, position
        self._offset = self._draw.randrange(rows)
        self._been = [position]  # where it may be rewound to
        self._closed = False

    async def run(self, opening: "Sequence[Move]" = ()) -> None:
        """The `opening` first, whatever the time; then until its budget, its session or its time is over; then a last look."""
        for move in opening:
            await move(self)
        pause = (self._family.stop - time.monotonic()) / (2 * self._budget)
        while self._budget > 0 and not self._closed and time.monotonic() < self._family.stop:
            self._budget -= 1
            (move,) = self._draw.choices(list(MOVES), list(MOVES.values()))
            await move(self)
            await asyncio.sleep(self._draw.uniform(0, 2 * pause))
        await self._last_look()

    async def _last_look(self) -> None:
        await self._caller.settle(self._ask(action="describe"), self._draw)
        await self._caller.settle(self._step(commit=False), self._draw)
        if not self._closed and self._draw.random() < 0.3:
            await self._close()

    # Requests.

    def _ask(self, by: str = "a", **fields: Any) -> Ask:
        return Ask(**{"who": f"{self.id}/{by}", "session": self.id} | fields)

    def _step(self, by: str = "a", rival: bool = False, count: int = 0, ahead: int = 0, **fields: Any) -> Ask:
        """Some rows from where the stream believes to be, or `ahead` of it; a rival's are others."""
        start = (self._offset + self._position + (self._draw.randrange(1, self._rows) if rival else ahead)) % (self._rows - MOST_ROWS)
        count = count or (self._draw.randint(1, MOST_ROWS) if self._draw.random() < 0.4 else 1)
        return self._ask(by, **{"step": self._position + ahead, "inputs": (start, start + count)} | fields)

    def _believe(self, answer: Answer) -> None:
        """Go where the session is said to be."""
        if answer.status == 410:
            self._closed = True
        elif answer.status == 404:
            self._position = 0
        elif (told := answer.step if answer.status == 200 else answer.expected) is not None:
            self._position = told
            self._been = [*self._been[-6:], told]

    async def _settled(self, ask: Ask, first: float | None = None) -> Answer:
        answer = await (self._caller.settle(ask, self._draw) if first is None else self._caller.settle(ask, self._draw, first))
        self._believe(answer)
        return answer

    async def _at_once(self, *asks: Ask) -> None:
        """Every request over a connection of its own; then see where that led."""
        answers = await asyncio.gather(*(self._caller.once(ask, self._draw) for ask in asks))
        told = [answer for answer in answers if answer.known]
        if len(told) < len(asks):
            await self._settled(asks[0])
        for answer in sorted(told, key=lambda a: a.status == 200):
            self._believe(answer)

    def _later(self, ask: Ask) -> None:
        """The network delivers it again, when it likes."""

        async def deliver() -> None:
            await asyncio.sleep(self._draw.uniform(*LATE))
            await self._caller.once(ask, self._draw)

        self._family.start(deliver())

    # Moves.

    async def _plain(self) -> None:
        await self._settled(self._step())

    async def _hasty(self) -> None:
        """Gives up on the answer and asks again."""
        await self._settled(self._step(), 10 ** self._draw.uniform(*HURRY))

    async def _twice(self) -> None:
        await self._at_once(*[self._step()] * self._draw.randint(2, 3))

    async def _overtaken(self) -> None:
        """Delivered, and delivered once more after others have passed it."""
        ask = self._step()
        self._later(ask)
        await self._settled(ask)

    async def _rivals(self) -> None:
        """Two clients, one position, different rows."""
        await self._at_once(self._step(), self._step("b", rival=True))

    async def _out_of_order(self) -> None:
        """The next but one before the next."""
        await self._at_once(self._step("b", ahead=1), self._step(count=1))

    async def _what_if(self) -> None:
        await self._caller.once(self._step("b", commit=False), self._draw)

    async def _unnumbered(self) -> None:
        """Applies wherever the session is; not to be sent again."""
        self._believe(await self._caller.once(self._step(step=None), self._draw, self._draw.choice([0.02, 30.0])))

    async def _watched(self) -> None:
        """A step, while others look."""
        await self._at_once(self._step(), self._ask("b", action="describe"), self._step("c", commit=False))

    async def _one_body(self) -> None:
        """Several requests of the session in one body: a step, its repetition, a rival, the next, a look."""
        step = self._step(count=1)
        asks = [step, step, self._step("b", rival=True), self._step(ahead=1), self._ask("b", action="describe")]
        chosen = [ask for ask in asks if self._draw.random() < 0.7] or asks
        for answer in await self._caller.together(chosen, self._draw, self._draw.choice([0.02, 30.0])):
            if answer.known:
                self._believe(answer)

    async def _slowly(self) -> None:
        """A step whose batch takes long, while another client moves the session."""
        slow = self._caller.together([self._step(), self._ballast()], self._draw)
        await asyncio.gather(slow, self._settled(self._step("b", rival=True)))
        await self._settled(self._step())

    async def _fork_slowly(self) -> None:
        """A fork whose batch takes long: meanwhile the source goes on, and then others look for the fork."""
        to = f"{self._family.name}-{self._draw.getrandbits(32):08x}"
        fork = self._ask(action="fork", to=to)

        async def overtake() -> None:
            await asyncio.sleep(self._draw.uniform(0, 0.05))
            await self._settled(self._step("b"))
            await self._caller.once(Ask(f"{self.id}/b", to, "describe"), self._draw)

        await asyncio.gather(self._caller.together([fork, self._ballast()], self._draw), overtake())
        await self._caller.settle(fork, self._draw)
        await self._caller.settle(Ask(f"{self.id}/a", to, "describe"), self._draw)

    async def _fork_in_a_body(self) -> None:
        """A fork, and steps of both sessions, in one body, while rivals move the source."""
        to = f"{self._family.name}-{self._draw.getrandbits(32):08x}"
        fork = self._ask(action="fork", to=to)
        asks = [fork, self._step(session=to), self._step(), self._ask("b", action="describe"), Ask(f"{self.id}/b", to, "describe")]
        chosen = [ask for ask in self._draw.sample(asks[1:], 4) if self._draw.random() < 0.7]
        ballast = [self._ballast()] * self._draw.randint(0, 1)
        body = self._caller.together([fork, *chosen, *ballast], self._draw)
        await asyncio.gather(body, *(self._caller.once(self._step("c", rival=True), self._draw) for _ in range(2)))
        await self._caller.settle(Ask(f"{self.id}/a", to, "describe"), self._draw)
        await self._settled(self._step())

    def _ballast(self) -> Ask:
        """Many rows that nobody's session is to remember."""
        return Ask(f"{self.id}/c", f"{self._family.name}-none", step=0, inputs=(0, min(BALLAST, self._rows)), commit=False)

    async def _rewind(self) -> None:
        """Back to an earlier position, and on with other rows."""
        target, here = self._draw.choice(self._been), self._position
        ask = self._ask(action="rewind", step=target, origin=here if self._draw.random() < 0.7 else None)
        if self._draw.random() < 0.2:
            self._later(ask)
        if self._draw.random() < 0.3:
            await self._at_once(ask, ask, self._step("b", rival=True))
        answer = await self._settled(ask, self._draw.choice([0.02, 30.0]))
        if answer.status == 200:
            self._offset = self._draw.randrange(self._rows)

    async def _fork(self) -> None:
        """Both go on."""
        await self._beget(lambda to: self._ask(action="fork", to=to), watched=True)

    async def _hand_over(self) -> None:
        """Out as a state string, and in under another name."""
        answer = await self._caller.settle(self._ask(action="export"), self._draw)
        if answer.state is not None:
            state = answer.state
            await self._beget(lambda to: Ask(f"{self.id}/a", to, "import", state=state), watched=False)

    async def _beget(self, asked: Callable[[str], Ask], watched: bool) -> None:
        family = self._family
        if family.sessions >= ROOM:
            return
        family.sessions += 1
        id = f"{family.name}.{family.sessions}"
        ask = asked(id)
        if watched and self._draw.random() < 0.5:
            await self._at_once(ask, self._step(), self._step("b", rival=True))
        elif self._draw.random() < 0.5:
            await asyncio.gather(*(self._caller.once(ask, self._draw) for _ in range(2)))
        answer = await self._caller.settle(ask, self._draw, self._draw.choice([0.02, 30.0]))
        if self._draw.random() < 0.3:
            self._later(ask)
        if answer.status == 200 and answer.step is not None:
            budget = int(self._budget * BRANCH)
            self._budget -= budget
            seed = f"{self._seed} {family.sessions}"
            family.start(Stream(self._caller, family, id, seed, self._rows, max(1, budget), answer.step).run())

    async def _close(self) -> None:
        """And what arrives late."""
        last = self._step()
        await self._settled(last)
        if self._draw.random() < 0.5:
            await self._at_once(self._ask(action="close"), self._step("b", rival=True))
        await self._caller.settle(self._ask(action="close"), self._draw, self._draw.choice([0.02, 30.0]))
        self._closed = True
        late = [last, self._step(step=0), self._step(), self._ask(action="describe"), self._ask(action="close"), self._ask(action="export")]
        late += [self._step("b", step=None), self._ask(action="rewind", step=self._draw.choice(self._been)), self._step(commit=False)]
        for ask in self._draw.sample(late, 4):
            await self._caller.settle(ask, self._draw)


Move = Callable[[Stream], Awaitable[None]]
MOVES: dict[Move, float] = {
    Stream._plain: 20, Stream._hasty: 12, Stream._twice: 8, Stream._overtaken: 10, Stream._rivals: 8, Stream._out_of_order: 4,
    Stream._slowly: 1, Stream._what_if: 4, Stream._unnumbered: 2, Stream._watched: 5, Stream._one_body: 6, Stream._rewind: 6,
    Stream._fork: 3, Stream._fork_slowly: 0.7, Stream._fork_in_a_body: 1, Stream._hand_over: 2, Stream._close: 0.5,
}  # fmt: skip


def opening(number: int) -> list[Move]:
    """What stream `number` begins with: among a few streams every move is made, however short the time."""
    return [Stream._plain, Stream._plain, list(MOVES)[number % len(MOVES)]]
