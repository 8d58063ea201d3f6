"""The client for asyncio: the same exchanges as the synchronous client, awaited. Every method is documented there."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, closing
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from cellstate import session, transport, wire
from cellstate.arrays import ArrayLike
from cellstate.errors import CellstateError
from cellstate.exchange import Caller, Event, Exchange, Outcome, RetryPolicy, Send
from cellstate.results import Result, SessionInfo
from cellstate.session import Session
from cellstate.tokens import Token, TokenSource
from cellstate.wire import Options

T = TypeVar("T")


class AsyncClient:
    """A server's models, for the tasks of one event loop; see Client. Cancelling a call is safe: make the same call again."""

    def __init__(self, url: str, token: Token = None, *, policy: RetryPolicy | None = None, http: httpx.AsyncClient | None = None) -> None:
        self._url, self._http, self._owns_http = url.rstrip("/"), http or httpx.AsyncClient(), http is None
        self._caller = Caller(TokenSource(token), policy or RetryPolicy())

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Sessions stay on the server."""
        if self._owns_http:
            await self._http.aclose()

    async def predict(self, model: str, inputs: ArrayLike, **options: Unpack[Options]) -> Result:
        """Answer one window, without a session."""
        return await self.run(session.predict(self._caller, model, wire.request(inputs, **options)))

    def stream(self, model: str, id: str | None = None, *, position: int | None = None, create: bool = True) -> "AsyncStream":
        """One session of a model, to be entered with `async with` or used as it is."""
        return AsyncStream(self, Session(self._caller, model, id, position, create))

    async def import_session(self, model: str, state: str, id: str | None = None) -> "AsyncStream":
        """Make a session from an exported state, at its position."""
        stream = AsyncStream(self, Session(self._caller, model, id, None, create=True))
        await self.run(stream._session.restore(state))
        return stream

    async def batch(self, rows: Iterable[tuple["AsyncStream", ArrayLike]], **options: Unpack[Options]) -> list[Result | CellstateError]:
        """Step many streams of one model in one request; one result or error for each row, in order."""
        pairs = [(stream, wire.request(inputs, **options)) for stream, inputs in rows]
        if any(stream._client is not self for stream, _ in pairs):
            raise ValueError("a stream of another client is in the batch")
        async with AsyncExitStack() as locks:
            for stream in sorted({stream for stream, _ in pairs}, key=lambda stream: stream.id):  # one order for all: no deadlock
                await locks.enter_async_context(stream._lock)
            return await self.run(session.batch(self._caller, [(stream._session, document) for stream, document in pairs]))

    async def run(self, exchange: Exchange[T]) -> T:
        """Carry out one exchange."""
        outcome: Outcome = None
        with closing(exchange):
            while True:
                try:
                    event = exchange.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = await self._perform(event)

    async def _perform(self, event: Event) -> Outcome:
        if not isinstance(event, Send):
            await asyncio.sleep(event.seconds)
            return None
        try:
            url, timeout = self._url + event.path, event.timeout
            async with self._http.stream("POST", url, content=event.content, headers=event.headers, timeout=timeout) as answer:
                body = transport.Body(answer, timeout)
                async for part in answer.aiter_bytes():
                    body.add(part)
        except transport.FAILURES as e:
            return transport.connection_failed(e)
        return body.response()


class AsyncStream:
    """One session of one model, whose state the service keeps between steps; see Stream. Concurrent calls run one after the other."""

    def __init__(self, client: AsyncClient, session: Session) -> None:
        self._client, self._session, self._lock = client, session, asyncio.Lock()

    async def __aenter__(self) -> "AsyncStream":
        await self._run(self._session.locate())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to release: the connections are the client's, and the session stays."""

    @property
    def id(self) -> str:
        """The session's id."""
        return self._session.id

    @property
    def position(self) -> int:
        """The number of steps that the service has acknowledged. Raises RuntimeError before it is known."""
        return self._session.known_position()

    async def step(self, inputs: ArrayLike, **options: Unpack[Options]) -> Result:
        """Send the next observations, `[T, F]`."""
        return await self._run(self._session.step(wire.request(inputs, **options)))

    async def forecast(
        self,
        horizon: int,
        inputs: ArrayLike,
        future: ArrayLike | None = None,
        returns: Sequence[str] = wire.PREDICTION,
        levels: Sequence[int] = (),
        paths: int = 0,
    ) -> Result:
        """Send the next observations, and forecast `horizon` steps from there."""
        return await self.step(inputs, horizon=horizon, future=future, returns=returns, levels=levels, paths=paths)

    async def what_if(self, inputs: ArrayLike, **options: Unpack[Options]) -> Result:
        """Answer as `step` would, and leave the session where it is."""
        return await self._run(self._session.what_if(wire.request(inputs, **options)))

    async def fork(self, id: str | None = None) -> "AsyncStream":
        """Start another session where this one is."""
        return AsyncStream(self._client, await self._run(self._session.fork(id)))

    async def rewind(self, step: int) -> SessionInfo:
        """Go back to a position that the service keeps."""
        return await self._run(self._session.rewind(step))

    async def describe(self) -> SessionInfo:
        """Where the service has the session."""
        return await self._run(self._session.describe())

    async def resume(self) -> SessionInfo | None:
        """Ask where the session is, and go on from there."""
        return await self._run(self._session.resume())

    async def export(self) -> str:
        """State and position as one opaque string."""
        return await self._run(self._session.export())

    async def close(self) -> SessionInfo:
        """End the session on the server."""
        return await self._run(self._session.close())

    async def _run(self, exchange: Exchange[T]) -> T:
        async with self._lock:
            return await self._client.run(exchange)
