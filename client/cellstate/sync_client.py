"""The client for ordinary code: each method returns when the service has answered."""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from threading import Lock
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


class Client:
    """A server's models. May be shared by threads.

    `url` is the server's address. `token` is the API key: a string, the path of a file that holds it, or a function that returns it. A file
    or function is read again when the server refuses the key, so a key can be replaced while the client runs. `policy`
    says how long a call is repeated. `http` is an `httpx.Client` of the caller's, for TLS, proxies and limits; the caller closes it.

    Every method raises CellstateError: an ApiError when the service refuses, DeadlineExceeded when no attempt is answered in time.
    """

    def __init__(self, url: str, token: Token = None, *, policy: RetryPolicy | None = None, http: httpx.Client | None = None) -> None:
        self._url, self._http, self._owns_http = url.rstrip("/"), http or httpx.Client(), http is None
        self._caller = Caller(TokenSource(token), policy or RetryPolicy())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Sessions stay on the server."""
        if self._owns_http:
            self._http.close()

    def predict(self, model: str, inputs: ArrayLike, **options: Unpack[Options]) -> Result:
        """Answer one window, without a session.

        `model` is a name, or "name/version". `inputs` is `[T, F]` in the data's units, or `[T]` when F is 1 or for token ids. NaN
        is a measurement that is missing; it is allowed in the columns that the model predicts.

        Options: `returns` names what to return: prediction, output, h_n, c_n, state; of a classifier also label, probabilities; of a model
        of distributions also parameters, samples. `state` is where to start from: the opaque string or the arrays of an earlier result.
        `horizon` rolls the model forward that many steps, with `future` `[horizon, K]` for the K inputs that are known in advance; `levels`
        asks for intervals of the forecast, in percent, and `paths` says along how many paths a model of distributions is sampled.
        """
        return self.run(session.predict(self._caller, model, wire.request(inputs, **options)))

    def stream(self, model: str, id: str | None = None, *, position: int | None = None, create: bool = True) -> "Stream":
        """One session of a model; see Stream. Without `id` it is a new session with an id of 128 random bits.

        Without `position`, the stream asks the service where the session is before its first step. With a position that the caller has
        kept, the stream goes on from there. `create=False` refuses to start a session that is not there: SessionNotFound.
        """
        return Stream(self, Session(self._caller, model, id, position, create))

    def import_session(self, model: str, state: str, id: str | None = None) -> "Stream":
        """Make a session from an exported state, at its position. Raises SessionExists when the id is taken."""
        stream = Stream(self, Session(self._caller, model, id, None, create=True))
        self.run(stream._session.restore(state))
        return stream

    def batch(self, rows: Iterable[tuple["Stream", ArrayLike]], **options: Unpack[Options]) -> list[Result | CellstateError]:
        """Step many streams of one model in one request, and one more for each earlier version that has the states of some.

        `rows` are pairs of a stream and its inputs. The options are the same for all.

        Returns one result or error for each row, in order; a row fails alone, and can be sent again alone or in another batch. Raises the
        error of the whole request when no row was answered.
        """
        pairs = [(stream, wire.request(inputs, **options)) for stream, inputs in rows]
        if any(stream._client is not self for stream, _ in pairs):
            raise ValueError("a stream of another client is in the batch")
        with ExitStack() as locks:
            for stream in sorted({stream for stream, _ in pairs}, key=lambda stream: stream.id):  # one order for all: no deadlock
                locks.enter_context(stream._lock)
            return self.run(session.batch(self._caller, [(stream._session, document) for stream, document in pairs]))

    def run(self, exchange: Exchange[T]) -> T:
        """Carry out one exchange."""
        outcome: Outcome = None
        with closing(exchange):
            while True:
                try:
                    event = exchange.send(outcome)
                except StopIteration as done:
                    result: T = done.value
                    return result
                outcome = self._perform(event)

    def _perform(self, event: Event) -> Outcome:
        if not isinstance(event, Send):
            time.sleep(event.seconds)
            return None
        try:
            url, timeout = self._url + event.path, event.timeout
            with self._http.stream("POST", url, content=event.content, headers=event.headers, timeout=timeout) as answer:
                body = transport.Body(answer, timeout)
                for part in answer.iter_bytes():
                    body.add(part)
        except transport.FAILURES as e:
            return transport.connection_failed(e)
        return body.response()


class Stream:
    """One session of one model, whose state the service keeps between steps.

    Every step is applied exactly once, whatever dies. A call that raised DeadlineExceeded, or was interrupted, leaves `position` where it
    was: make the same call again, and the step is applied, or answered from the record when it had been applied. Calls from several threads
    run one after the other. Leaving a `with` block does not end the session; `close()` does.
    """

    def __init__(self, client: Client, session: Session) -> None:
        self._client, self._session, self._lock = client, session, Lock()

    def __enter__(self) -> "Stream":
        self._run(self._session.locate())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to release: the connections are the client's, and the session stays."""

    @property
    def id(self) -> str:
        """The session's id."""
        return self._session.id

    @property
    def position(self) -> int:
        """The number of steps that the service has acknowledged. Raises RuntimeError before it is known: enter the stream, or resume it."""
        return self._session.known_position()

    def step(self, inputs: ArrayLike, **options: Unpack[Options]) -> Result:
        """Send the next observation `[1, F]`, or T of them `[T, F]`; the position advances by T. Options as in Client.predict.

        Raises StepConflict when the session is elsewhere: somebody else moved it.
        """
        return self._run(self._session.step(wire.request(inputs, **options)))

    def forecast(
        self,
        horizon: int,
        inputs: ArrayLike,
        future: ArrayLike | None = None,
        returns: Sequence[str] = wire.PREDICTION,
        levels: Sequence[int] = (),
        paths: int = 0,
    ) -> Result:
        """Send the next observations, and forecast `horizon` steps from there: `result.forecast` is `[horizon, O]`.

        The position advances by `inputs` alone. `future` is `[horizon, K]`: row i has the inputs known in advance for the time of
        `forecast[i]`. `levels` asks for intervals, and `paths` says along how many paths a model of distributions is sampled for them.
        """
        return self.step(inputs, horizon=horizon, future=future, returns=returns, levels=levels, paths=paths)

    def what_if(self, inputs: ArrayLike, **options: Unpack[Options]) -> Result:
        """Answer as `step` would, and leave the session where it is."""
        return self._run(self._session.what_if(wire.request(inputs, **options)))

    def fork(self, id: str | None = None) -> "Stream":
        """Start another session where this one is. Raises SessionExists when the id is taken.

        With an id of the caller's the call can be made again when it failed; without one a call that failed may leave a session behind.
        """
        return Stream(self._client, self._run(self._session.fork(id)))

    def rewind(self, step: int) -> SessionInfo:
        """Go back to a position that the service keeps; what came after it is forgotten."""
        return self._run(self._session.rewind(step))

    def describe(self) -> SessionInfo:
        """Where the service has the session. Changes nothing, this stream's position included."""
        return self._run(self._session.describe())

    def resume(self) -> SessionInfo | None:
        """Ask where the session is, and go on from there; None when it is not there, and the next step starts it.

        What the answer cannot tell: whether a request that is still on its way will be applied after it. Wait until nothing is outstanding,
        or send the unanswered step again instead.
        """
        return self._run(self._session.resume())

    def export(self) -> str:
        """State and position as one opaque string, for `Client.import_session` here or on another server."""
        return self._run(self._session.export())

    def close(self) -> SessionInfo:
        """End the session on the server."""
        return self._run(self._session.close())

    def _run(self, exchange: Exchange[T]) -> T:
        with self._lock:
            return self._client.run(exchange)
