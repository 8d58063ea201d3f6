"""Sessions in Valkey, shared by the workers of several machines.

Durability: an acknowledged commit is as durable as the server's append-only file. `appendfsync always`: it is on the server's disk, and
neither kill -9 nor a power cut loses it. `everysec`: either may lose the last two seconds. No append-only file: either may lose all that
came after the last snapshot. Replication is asynchronous: a failover may lose what the new primary had not received, unless `replicas`
says how many replicas must have a commit before it is acknowledged, or read.

Each change is one script on one entry, so entries may lie in different hash slots; a batch is no transaction, and its reads are no
snapshot. No commit is sent a second time by itself: when its connection breaks it may or may not have arrived, and only the client can
repeat a step safely, by its position. The server forgets entries by its own clock when their time is over.
"""

import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from valkey.connection import Connection, ConnectionPool, parse_url
from valkey.exceptions import NoScriptError, ReadOnlyError, ResponseError, ValkeyError

from handlers.clock import MAX_SKEW
from handlers.errors import ConfigurationError, StoreUnavailable
from handlers.stores.base import Change, Entry, Parts, Swept, Usage
from handlers.stores.valkey_commands import (
    COMPARE_AND_SET,
    ENTRIES,
    HEADER,
    PREFIX,
    SCAN_EXPIRIES,
    Command,
    compare_and_set,
    decode,
    milliseconds,
    parts_key,
)

PROBE = b"\0probe"
CHUNK = 256  # keys in one round trip of a scan
NOT_APPLIED = "nothing was applied"
UNKNOWN = "whether it was applied is not known: send the same step again, it is applied once or answered from the record"
EXPECTED = "expected valkey://[user:password@]host[:port][/db], or valkeys:// with ssl_ options, and the password percent-encoded"
CONNECTION = {  # kept alive: a firewall must not forget it while it is idle
    "socket_keepalive": True,
    "socket_keepalive_options": {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3},
}


class ValkeyStore:
    """Keep the sessions in one Valkey primary.

    `timeout` is the longest time in seconds to connect, and to wait for each reply. `replicas` is the number of replicas that must have a
    commit before it is acknowledged, or read. `clock` gives seconds since the epoch, with which the server's clock must agree when a
    connection is made; `witness` is told before what the server's clock says, then and at each sweep.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 2.0,
        replicas: int = 0,
        clock: Callable[[], float] = time.time,
        witness: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._witness = witness
        self._place, self._pool = _open(url, timeout, partial(_on_connect, clock, witness))
        self._replicas, self._closed, self._cursor = replicas, False, b"0"
        wait: Command = (b"WAIT", b"%d" % replicas, b"%d" % max(1, int(timeout * 500)))
        self._wait: list[Command] = [wait] if replicas else []
        # WAIT covers only the writes of its own connection. PUBLISH is replicated and stores nothing: waiting for it covers all earlier
        # writes of other connections.
        self._barrier: list[Command] = [(b"PUBLISH", PREFIX, b""), wait] if replicas else []
        self._refuse_eviction()

    def _refuse_eviction(self) -> None:
        (memory,) = self._read([(b"INFO", b"memory")])
        policy = re.search(rb"maxmemory_policy:([\w-]+)", memory)
        if policy and policy[1] != b"noeviction" and not re.search(rb"maxmemory:0\r", memory):
            raise ConfigurationError(
                f"store {self._place}: its maxmemory-policy {policy[1].decode()} may drop live sessions: set it to noeviction"
            )

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        return [decode(value) for value in self._read([(b"GET", PREFIX + key) for key in keys], self._barrier)] if keys else []

    def get_parts(self, key: bytes, numbers: Sequence[int]) -> list[bytes | None]:
        if not numbers:
            return []
        (values,) = self._read([(b"HMGET", parts_key(key), *[b"%d" % number for number in numbers])], self._barrier)
        return list(values)

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return [reply == 1 for reply in self._write([compare_and_set(change) for change in changes])] if changes else []

    def sweep(self, now: float, limit: int) -> Swept:
        """Look at a slice of the keys; the server itself deletes expired keys. SCAN may return a key twice in a round."""
        scan: Command = (b"EVAL", SCAN_EXPIRIES, b"0", self._cursor, ENTRIES, b"%d" % limit)
        (self._cursor, expiries), server = self._read([scan, (b"INFO", b"server")])
        _tell(self._witness, server)
        return Swept((), [at / 1000 for at in map(float, expiries.split()) if at > 0], self._cursor == b"0")

    def probe(self) -> None:
        """Use every command of the service; the entry that is written has expired already and is deleted at once."""
        self.commit_many([Change(PROBE, None, Entry(1, 1.0, b""), Parts([(1, b"")], [0]))])
        self._read([(b"GET", PREFIX + PROBE), (b"PEXPIRETIME", PREFIX + PROBE)], self._barrier)
        self.get_parts(PROBE, [0])
        self.usage()
        self.sweep(0.0, 1)
        self._cursor = b"0"

    def usage(self) -> Usage:
        """Count the entries of the whole database, and the memory of the whole server."""
        entries, memory = self._read([(b"DBSIZE",), (b"INFO", b"memory")])
        parsed = {name: int(value) for name, value in re.findall(rb"(used_memory|maxmemory):(\d+)", memory)}
        return Usage(entries, parsed.get(b"used_memory", 0), parsed.get(b"maxmemory", 0))

    def count(self, prefix: bytes, limit: int) -> int:
        """Walk all keys of the database, some milliseconds of the server's time for ten thousand; the matching ones are sent."""
        cursor, found = b"", set[bytes]()
        while cursor != b"0" and len(found) < limit:
            ((cursor, some),) = self._read([(b"SCAN", cursor or b"0", b"MATCH", _pattern(prefix), b"COUNT", b"10000")])
            found.update(some)
        return len(found)

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        for keys in self._keys(prefix, after):
            for key, entry in zip(keys, self.get_many(keys), strict=True):
                if entry is not None:
                    yield key, entry

    def check(self) -> list[str]:
        problems = []
        for keys in self._keys(b""):
            commands = [c for key in keys for c in ((b"MULTI",), (b"GET", PREFIX + key), (b"PEXPIRETIME", PREFIX + key), (b"EXEC",))]
            pairs = self._read(commands)[3::4]
            problems += [f"{key!r}: {text}" for key, (value, expiry) in zip(keys, pairs, strict=True) if (text := _problem(value, expiry))]
        return problems

    def close(self) -> None:
        self._closed = True
        self._pool.disconnect()

    def _keys(self, prefix: bytes, after: bytes = b"") -> Iterator[Sequence[bytes]]:
        """Yield chunks of the stored keys that begin with `prefix` and follow `after`, in order. All of them are held in memory."""
        cursor, found = b"", set[bytes]()
        while cursor != b"0":
            ((cursor, some),) = self._read([(b"SCAN", cursor or b"0", b"MATCH", _pattern(prefix), b"COUNT", b"1000")])
            found.update(some)
        keys = sorted(key for name in found if (key := name.removeprefix(PREFIX)) > after and not key.startswith(b"\0"))
        return (keys[i : i + CHUNK] for i in range(0, len(keys), CHUNK))

    # Requests and replies: one reply to each command, in the order of the commands.

    def _read(self, commands: Sequence[Command], waits: Sequence[Command] = ()) -> list[Any]:
        replies = self._exchange(commands, waits, NOT_APPLIED)
        self._raise_on_error(replies, NOT_APPLIED)
        return replies

    def _write(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._exchange(commands, self._wait, UNKNOWN)
        not_run = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if not_run:  # a server that was restarted has lost its scripts
            in_full = [(b"EVAL", COMPARE_AND_SET, *commands[i][2:]) for i in not_run]
            for i, reply in zip(not_run, self._exchange(in_full, self._wait, UNKNOWN), strict=True):
                replies[i] = reply
        self._raise_on_error(replies, UNKNOWN if 1 in replies else NOT_APPLIED)
        return replies

    def _exchange(self, commands: Sequence[Command], waits: Sequence[Command], outcome: str) -> list[Any]:
        """Send `commands` and `waits` in one round trip; return the replies to `commands`, error replies included.

        Raises StoreUnavailable, with the `outcome` of the batch in its message, when the connection breaks or a wait fails.
        """
        connection = self._connection()
        try:
            replies = _execute(connection, [*commands, *waits])
        except (ValkeyError, OSError) as e:
            raise self._unavailable(e, outcome) from e
        finally:
            self._pool.release(connection)
        if waits:
            self._check_replicas(replies[len(commands) :], outcome)
        return replies[: len(commands)]

    def _check_replicas(self, replies: Sequence[Any], outcome: str) -> None:
        """Check the replies to `waits`, of which WAIT is the last. Raises StoreUnavailable for an error reply or too few replicas."""
        self._raise_on_error(replies, outcome)
        if replies[-1] < self._replicas:
            raise self._unavailable(f"{replies[-1]} of {self._replicas} replicas had it in time", outcome)

    def _connection(self) -> Connection:
        """Take a connection to the primary from the pool; the pool replaces one that broke. Raises StoreUnavailable."""
        if self._closed:
            raise self._unavailable("closed", NOT_APPLIED)
        try:
            return self._pool.get_connection("")
        except (ValkeyError, OSError) as e:
            raise self._unavailable(e, NOT_APPLIED) from e

    def _raise_on_error(self, replies: Sequence[Any], outcome: str) -> None:
        """Raise StoreUnavailable for the first error reply, with the `outcome` of the batch in its message."""
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if any(isinstance(error, ReadOnlyError) for error in errors):
            self._pool.disconnect(inuse_connections=False)  # another server is the primary now: look its address up again
        if errors:
            raise self._unavailable(errors[0], outcome) from errors[0]

    def _unavailable(self, why: object, outcome: str) -> StoreUnavailable:
        reason = str(why).strip(" .") or type(why).__name__
        return StoreUnavailable(f"store {self._place}: {reason}; {outcome}", f"the session store is unavailable; {outcome}")


def _open(url: str, timeout: float, on_connect: Callable[[Connection], None]) -> tuple[str, ConnectionPool]:
    """Parse `url`; return the server's address for messages, and a pool that has made no connection yet. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        unknown = [name for name in parse_qs(parts.query) if not name.startswith("ssl_")]
        if not parts.hostname or not re.fullmatch(r"/?\d*", parts.path) or parts.fragment or unknown:
            raise ValueError
        options = {"ssl_check_hostname": True} if parts.scheme == "valkeys" else {}
        pool = ConnectionPool(**options | parse_url(url) | CONNECTION, socket_timeout=timeout, valkey_connect_func=on_connect)
        pool.make_connection()  # refuses options that it does not know
        return f"valkey://{parts.hostname}:{parts.port or 6379}/{parts.path.strip('/') or 0}", pool
    except (ValueError, TypeError, ValkeyError):  # their messages may repeat a part of the password
        raise ConfigurationError(f"store: {EXPECTED}") from None


def _on_connect(clock: Callable[[], float], witness: Callable[[float], None], connection: Connection) -> None:
    """Authenticate, and check that the server is a primary that has loaded its data and whose clock is right.

    Raises ResponseError, or ReadOnlyError for a replica: its replies may be stale.
    """
    connection.on_connect()
    for reply in (
        replies := _execute(connection, [(b"PING",), (b"INFO", b"replication"), (b"INFO", b"server")])
    ):  # PING is refused while loading
        if isinstance(reply, ResponseError):
            raise reply
    if b"role:master" not in replies[1]:
        raise ReadOnlyError("it is a replica: name the primary, or what follows it after a failover")
    _check_clock(_tell(witness, replies[2]), clock())


def _tell(witness: Callable[[float], None], server: bytes) -> float | None:
    """Tell `witness` what the server's clock says, and return it; None where the server does not say."""
    microseconds = re.search(rb"server_time_usec:(\d+)", server)
    if microseconds is None:
        return None
    seconds = int(microseconds[1]) / 1e6
    witness(seconds)
    return seconds


def _check_clock(server: float | None, now: float) -> None:
    """Raise ResponseError when the server's clock is wrong: it would delete new sessions at once, or live ones too early."""
    skew = 0.0 if server is None else server - now
    if abs(skew) > MAX_SKEW:
        raise ResponseError(f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's: set both right")


def _execute(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """Send the commands in one write and return one reply for each, error replies included.

    Raises ValkeyError or OSError when the connection breaks; the connection is closed then.
    """
    try:
        connection.send_packed_command([b"".join(connection.pack_commands(commands))], check_health=False)
        return [_reply(connection) for _ in commands]
    except BaseException:  # a reply left unread would be taken for the next command's
        connection.disconnect()
        raise


def _reply(connection: Connection) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as e:
        return e


def _pattern(prefix: bytes) -> bytes:
    """Return the glob of the stored keys that begin with `prefix`."""
    return PREFIX + re.sub(rb"([\\*?^\[\]-])", rb"\\\1", prefix) + b"*"


def _problem(value: bytes | None, expiry: int) -> str:
    """Describe what is wrong with one stored value, or return an empty string. `expiry` is the server's, in milliseconds."""
    if value is None:
        return ""
    if len(value) < HEADER.size:
        return f"{len(value)} bytes are no entry"
    version, purge_at = HEADER.unpack_from(value)
    if not 0 < version < 2**63:
        return f"version {version} is out of range"
    return "" if expiry == milliseconds(purge_at) else f"the server forgets it at {expiry} ms, not at {purge_at} s"
