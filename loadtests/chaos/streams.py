"""Feed sessions while doing to them what a network, a second client and an impatient user do.

A stream believes what each answer says of its session's position and generation, whoever moved the session. Whether an answer is right is
the oracle's concern.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.chaos.caller import PATIENCE, Caller
from loadtests.history import Answer, Invocation

MAX_ROWS = 6  # of one request
IMPATIENCE = -3.3, -0.7  # powers of ten: seconds that an impatient client waits
BALLAST = 2_400  # rows, the first of the pool, that keep a worker busy between reading sessions and committing them
DELAY = 0.01, 2.0  # seconds until a delayed duplicate arrives
MAX_SESSIONS = 5  # of one partition
BRANCH = 0.5  # share of the remaining requests that the stream of a fork or an import receives
WITHOUT_GENERATION, STALE_GENERATION = 0.15, 0.08  # shares of the requests that could carry the right one


@dataclass
class Partition:
    """What the streams of related sessions share."""

    name: str
    stop: float  # monotonic time at which the streams end
    sessions: int = 1
    running: set[asyncio.Task[Any]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside the others."""
        self.running.add(asyncio.ensure_future(work))

    async def finish(self) -> None:
        """Wait for everything that was started."""
        while self.running:
            done, _ = await asyncio.wait(self.running)
            self.running -= done
            for task in done:
                task.result()


class Stream:
    """The client of one session, and its rivals. `budget` bounds the number of moves; `rows` is the length of the pool."""

    def __init__(self, caller: Caller, partition: Partition, id: str, seed: str, rows: int, budget: int, position: int = 0) -> None:
        self._caller, self._partition, self.id, self._seed, self._draw = caller, partition, id, seed, random.Random(seed)
        self._rows, self._budget, self._position = rows, budget, position
        self._offset = self._draw.randrange(rows)
        self._visited = [position]  # positions that it may be rewound to
        self._generation: int | None = None  # None until an answer tells it: an older service does not know generations
        self._closed = False

    async def run(self, opening: "Sequence[Move]" = ()) -> None:
        """Make the `opening` moves, then random ones until the budget, the session or the time is over; then look a last time."""
        for move in opening:
            await move(self)
        pause = (self._partition.stop - time.monotonic()) / (2 * self._budget)
        while self._budget > 0 and not self._closed and time.monotonic() < self._partition.stop:
            self._budget -= 1
            (move,) = self._draw.choices(list(MOVES), list(MOVES.values()))
            await move(self)
            await asyncio.sleep(self._draw.uniform(0, 2 * pause))
        await self._last_look()

    async def _last_look(self) -> None:
        await self._caller.settle(self._invoke(action="describe"), self._draw)
        await self._caller.settle(self._step(commit=False), self._draw)
        if not self._closed and self._draw.random() < 0.3:
            await self._close()

    # Requests.

    def _invoke(self, client: str = "a", **fields: Any) -> Invocation:
        return Invocation(**{"client": f"{self.id}/{client}", "session": self.id} | fields)

    def _step(self, client: str = "a", rival: bool = False, count: int = 0, ahead: int = 0, **fields: Any) -> Invocation:
        """Return a step of some rows at the believed position, or `ahead` of it; a rival sends other rows."""
        start = (self._offset + self._position + (self._draw.randrange(1, self._rows) if rival else ahead)) % (self._rows - MAX_ROWS)
        count = count or (self._draw.randint(1, MAX_ROWS) if self._draw.random() < 0.4 else 1)
        numbered = {"step": self._position + ahead, "generation": self._sent_generation(), "inputs": (start, start + count)}
        return self._invoke(client, **numbered | fields)

    def _sent_generation(self) -> int | None:
        """Return the believed generation; now and then none, or an earlier one."""
        chance = self._draw.random()
        if self._generation is None or chance < WITHOUT_GENERATION:
            return None
        stale = chance > 1 - STALE_GENERATION and self._generation > 0
        return self._draw.randrange(self._generation) if stale else self._generation

    def _believe(self, answer: Answer) -> None:
        """Take over what an answer says of the session."""
        if answer.status == 410:
            self._closed = True
        elif answer.status == 404:
            self._position = 0
        elif (told := answer.step if answer.status == 200 else answer.expected) is not None:
            self._position = told
            self._visited = [*self._visited[-6:], told]
        if answer.generation is not None:
            self._generation = answer.generation

    async def _settled(self, invocation: Invocation, first: float = PATIENCE) -> Answer:
        answer = await self._caller.settle(invocation, self._draw, first)
        self._believe(answer)
        return answer

    async def _at_once(self, *invocations: Invocation) -> None:
        """Send every request over a connection of its own, then see where that led."""
        answers = await asyncio.gather(*(self._caller.once(invocation, self._draw) for invocation in invocations))
        told = [answer for answer in answers if answer.known]
        if len(told) < len(invocations):
            await self._settled(invocations[0])
        for answer in sorted(told, key=lambda a: a.status == 200):
            self._believe(answer)

    def _deliver_later(self, invocation: Invocation) -> None:
        """Deliver a request again after a random delay, as a network may."""

        async def deliver() -> None:
            await asyncio.sleep(self._draw.uniform(*DELAY))
            await self._caller.once(invocation, self._draw)

        self._partition.start(deliver())

    # Moves.

    async def _plain(self) -> None:
        await self._settled(self._step())

    async def _impatient(self) -> None:
        """Give up on the answer and ask again."""
        await self._settled(self._step(), 10 ** self._draw.uniform(*IMPATIENCE))

    async def _duplicates(self) -> None:
        await self._at_once(*[self._step()] * self._draw.randint(2, 3))

    async def _delayed_duplicate(self) -> None:
        """Deliver a step, and once more after others have passed it."""
        step = self._step()
        self._deliver_later(step)
        await self._settled(step)

    async def _rivals(self) -> None:
        """Send different rows at one position from two clients."""
        await self._at_once(self._step(), self._step("b", rival=True))

    async def _out_of_order(self) -> None:
        """Send the step after the next one first."""
        await self._at_once(self._step("b", ahead=1), self._step(count=1))

    async def _what_if(self) -> None:
        await self._caller.once(self._step("b", commit=False), self._draw)

    async def _unnumbered(self) -> None:
        """Send a step that applies wherever the session is, and never repeat it."""
        step = self._step(step=None, generation=None)
        self._believe(await self._caller.once(step, self._draw, self._draw.choice([0.02, PATIENCE])))

    async def _watched(self) -> None:
        """Send a step while others read the session."""
        await self._at_once(self._step(), self._invoke("b", action="describe"), self._step("c", commit=False))

    async def _one_body(self) -> None:
        """Send several requests of the session in one body: a step, its repetition, a rival, the next step, a read."""
        step = self._step(count=1)
        candidates = [step, step, self._step("b", rival=True), self._step(ahead=1), self._invoke("b", action="describe")]
        chosen = [invocation for invocation in candidates if self._draw.random() < 0.7] or candidates
        for answer in await self._caller.together(chosen, self._draw, self._draw.choice([0.02, PATIENCE])):
            if answer.known:
                self._believe(answer)

    async def _slow_step(self) -> None:
        """Send a step in a batch that takes long, while another client moves the session."""
        slow = self._caller.together([self._step(), self._ballast()], self._draw)
        await asyncio.gather(slow, self._settled(self._step("b", rival=True)))
        await self._settled(self._step())

    async def _slow_fork(self) -> None:
        """Send a fork in a batch that takes long; meanwhile the source moves on, and then others look for the fork."""
        to = self._unrelated_name()
        fork = self._invoke(action="fork", to=to)

        async def overtake() -> None:
            await asyncio.sleep(self._draw.uniform(0, 0.05))
            await self._settled(self._step("b"))
            await self._caller.once(Invocation(f"{self.id}/b", to, "describe"), self._draw)

        await asyncio.gather(self._caller.together([fork, self._ballast()], self._draw), overtake())
        await self._caller.settle(fork, self._draw)
        await self._caller.settle(Invocation(f"{self.id}/a", to, "describe"), self._draw)

    async def _fork_in_a_body(self) -> None:
        """Send a fork and steps of both sessions in one body, while rivals move the source."""
        to = self._unrelated_name()
        fork = self._invoke(action="fork", to=to)
        first = self._step(session=to, generation=None)
        others = [first, self._step(), self._invoke("b", action="describe"), Invocation(f"{self.id}/b", to, "describe")]
        chosen = [invocation for invocation in self._draw.sample(others, len(others)) if self._draw.random() < 0.7]
        ballast = [self._ballast()] * self._draw.randint(0, 1)
        body = self._caller.together([fork, *chosen, *ballast], self._draw)
        await asyncio.gather(body, *(self._caller.once(self._step("c", rival=True), self._draw) for _ in range(2)))
        await self._caller.settle(Invocation(f"{self.id}/a", to, "describe"), self._draw)
        await self._settled(self._step())

    def _unrelated_name(self) -> str:
        return f"{self._partition.name}-{self._draw.getrandbits(32):08x}"

    def _ballast(self) -> Invocation:
        """Return a what-if step of many rows, which keeps a worker busy."""
        inputs = 0, min(BALLAST, self._rows)
        return Invocation(f"{self.id}/c", f"{self._partition.name}-none", step=0, inputs=inputs, commit=False)

    def _rewind_to(self, target: int) -> Invocation:
        here = self._position if self._draw.random() < 0.7 else None
        return self._invoke(action="rewind", step=target, from_step=here, generation=self._sent_generation())

    async def _rewind(self) -> None:
        """Rewind to an earlier position and go on with other rows; the rewind may be duplicated, at once or late."""
        rewind = self._rewind_to(self._draw.choice(self._visited))
        if self._draw.random() < 0.4:
            self._deliver_later(rewind)
        if self._draw.random() < 0.3:
            await self._at_once(rewind, rewind, self._step("b", rival=True))
        answer = await self._settled(rewind, self._draw.choice([0.02, PATIENCE]))
        if answer.status == 200:
            self._offset = self._draw.randrange(self._rows)

    async def _undo(self) -> None:
        """Send a step, rewind it, and let a duplicate of the undone step arrive late."""
        step, before = self._step(), self._position
        await self._settled(step)
        self._deliver_later(step)
        await self._settled(self._rewind_to(before))
        if self._draw.random() < 0.5:
            await self._settled(self._step(rival=True))

    async def _rewind_in_place(self) -> None:
        """Rewind to the current position, then repeat the last step."""
        step = self._step()
        await self._settled(step)
        await self._settled(self._rewind_to(self._position))
        await self._caller.once(step, self._draw)

    async def _fork(self) -> None:
        """Fork the session; both go on."""
        await self._branch(lambda to: self._invoke(action="fork", to=to), watched=True)

    async def _hand_over(self) -> None:
        """Export the session and import it under another name."""
        answer = await self._caller.settle(self._invoke(action="export"), self._draw)
        if answer.state is not None:
            state = answer.state
            await self._branch(lambda to: Invocation(f"{self.id}/a", to, "import", state=state), watched=False)

    async def _branch(self, request: Callable[[str], Invocation], watched: bool) -> None:
        """Begin another session from this one, and a stream that feeds it."""
        partition = self._partition
        if partition.sessions >= MAX_SESSIONS:
            return
        partition.sessions += 1
        id = f"{partition.name}.{partition.sessions}"
        invocation = request(id)
        if watched and self._draw.random() < 0.5:
            await self._at_once(invocation, self._step(), self._step("b", rival=True))
        elif self._draw.random() < 0.5:
            await asyncio.gather(*(self._caller.once(invocation, self._draw) for _ in range(2)))
        answer = await self._caller.settle(invocation, self._draw, self._draw.choice([0.02, PATIENCE]))
        if self._draw.random() < 0.3:
            self._deliver_later(invocation)
        if answer.status == 200 and answer.step is not None:
            budget = int(self._budget * BRANCH)
            self._budget -= budget
            seed = f"{self._seed} {partition.sessions}"
            partition.start(Stream(self._caller, partition, id, seed, self._rows, max(1, budget), answer.step).run())

    async def _close(self) -> None:
        """Close the session, and send what may arrive late."""
        last = self._step()
        await self._settled(last)
        if self._draw.random() < 0.5:
            await self._at_once(self._invoke(action="close"), self._step("b", rival=True))
        await self._caller.settle(self._invoke(action="close"), self._draw, self._draw.choice([0.02, PATIENCE]))
        self._closed = True
        actions = [self._invoke(action=action) for action in ("describe", "close", "export")]
        steps = [last, self._step(step=0), self._step(), self._step("b", step=None), self._step(commit=False)]
        for invocation in self._draw.sample([*actions, *steps, self._rewind_to(self._draw.choice(self._visited))], 4):
            await self._caller.settle(invocation, self._draw)


Move = Callable[[Stream], Awaitable[None]]
MOVES: dict[Move, float] = {
    Stream._plain: 20, Stream._impatient: 12, Stream._duplicates: 8, Stream._delayed_duplicate: 10, Stream._rivals: 8,
    Stream._out_of_order: 4, Stream._slow_step: 1, Stream._what_if: 4, Stream._unnumbered: 2, Stream._watched: 5, Stream._one_body: 6,
    Stream._rewind: 6, Stream._undo: 3, Stream._rewind_in_place: 1, Stream._fork: 3, Stream._slow_fork: 0.7, Stream._fork_in_a_body: 1,
    Stream._hand_over: 2, Stream._close: 0.5,
}  # fmt: skip


def opening(number: int) -> list[Move]:
    """Return the first moves of stream `number`: among a few streams every move is made, however short the time."""
    return [Stream._plain, Stream._plain, list(MOVES)[number % len(MOVES)]]
