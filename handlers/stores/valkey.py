"""Sessions in Valkey, shared by the workers of several machines.

Durability: an acknowledged commit is as durable as the server's append-only file. `appendfsync always`: it is on the server's disk, and
neither kill -9 nor a power cut loses it. `everysec`: either may lose the last two seconds. No append-only file: either may lose all that
came after the last snapshot. Replication is asynchronous: a failover may lose what the new primary had not received, unless `replicas`
says how many replicas must have a commit before it is acknowledged, or read.

Each change is one script on one key, so keys may lie in different hash slots; a batch is no transaction, and its reads are no snapshot. No
commit is sent a second time by itself: when its connection breaks it may or may not have arrived, and only the client can repeat a step
safely, by its position. The server forgets entries by its own clock when their time is over.

Keys are `cellstate:` and the store's key. A value is as in the embedded store: version and purge time, 16 bytes, then the value's own.
"""

import hashlib
import math
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from valkey.connection import Connection, ConnectionPool, parse_url
from valkey.exceptions import NoScriptError, ReadOnlyError, ResponseError, ValkeyError

from handlers.errors import ConfigurationError, StoreUnavailable
from handlers.stores.base import Change, Entry, Swept, Usage

Command = tuple[bytes, ...]
HEADER = struct.Struct("<Qd")  # version, purge_at; the value follows
VERSION = struct.Struct("<Q")
PREFIX = b"cellstate:"
PROBE = b"\0probe"
CHUNK = 256  # keys in one round trip of a scan
LATEST = 2**62  # milliseconds; the server takes no time beyond 2**63

# An absent key reads as the empty string, and so does an `expected` of None.
COMPARE_AND_SET = b"""
if redis.call('GETRANGE', KEYS[1], 0, 7) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
return 1
"""
# One reply for many keys: their expiries as text, which costs a tenth of as many replies.
LOOK = b"""
local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local expiries = {}
for i, key in ipairs(found[2]) do expiries[i] = redis.call('PEXPIRETIME', key) end
return {found[1], table.concat(expiries, ' ')}
"""
SHA = hashlib.sha1(COMPARE_AND_SET).hexdigest().encode()

NOTHING = "nothing was applied"
UNKNOWN = "whether it was applied is not known: send the same step again, it is applied once or answered from the record"
EXPECTED = "expected valkey://[user:password@]host[:port][/db], or valkeys:// with ssl_ options, and the password percent-encoded"
CONNECTION = {  # kept alive: a firewall must not forget it while it is idle
    "socket_keepalive": True,
    "socket_keepalive_options": {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3},
}


class ValkeyStore:
    """The sessions of one primary. `timeout` bounds, in seconds, connecting and each wait for an answer."""

    def __init__(self, url: str, timeout: float = 2.0, replicas: int = 0) -> None:
        self._place, self._pool = _open(url, timeout)
        self._replicas, self._closed, self._cursor = replicas, False, b"0"
        wait: Command = (b"WAIT", b"%d" % replicas, b"%d" % max(1, int(timeout * 500)))
        self._wait: list[Command] = [wait] if replicas else []
        # WAIT waits for what its own connection wrote. PUBLISH is replicated too and stores nothing: behind it lies all that was just read.
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
        return [_decode(value) for value in self._read([(b"GET", PREFIX + key) for key in keys], self._barrier)] if keys else []

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        return [reply == 1 for reply in self._write([_compare_and_set(change) for change in changes])] if changes else []

    def sweep(self, now: float, limit: int) -> Swept:
        """Removes nothing: the server itself forgets what is past its time. Keys may be seen twice in a round."""
        ((self._cursor, expiries),) = self._read([(b"EVAL", LOOK, b"0", self._cursor, PREFIX + b"*", b"%d" % limit)])
        return Swept((), [at / 1000 for at in map(float, expiries.split()) if at > 0], self._cursor == b"0")

    def probe(self) -> None:
        """What is written was over long ago, and is gone."""
        self.commit_many([Change(PROBE, None, Entry(1, 1.0, b""))])
        self._read([(b"GET", PREFIX + PROBE), (b"PEXPIRETIME", PREFIX + PROBE)])
        self.usage()
        self.sweep(0.0, 1)
        self._cursor = b"0"

    def usage(self) -> Usage:
        """Of the whole database, and the memory of the whole server."""
        entries, memory = self._read([(b"DBSIZE",), (b"INFO", b"memory")])
        told = {name: int(value) for name, value in re.findall(rb"(used_memory|maxmemory):(\d+)", memory)}
        return Usage(entries, told.get(b"used_memory", 0), told.get(b"maxmemory", 0))

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, Entry]]:
        for keys in self._keys(prefix):
            for key, entry in zip(keys, self.get_many(keys), strict=True):
                if entry is not None:
                    yield key, entry

    def check(self) -> list[str]:
        problems = []
        for keys in self._keys(b""):
            commands = [c for key in keys for c in ((b"MULTI",), (b"GET", PREFIX + key), (b"PEXPIRETIME", PREFIX + key), (b"EXEC",))]
            pairs = self._read(commands)[3::4]
            problems += [f"{key!r}: {said}" for key, (value, expiry) in zip(keys, pairs, strict=True) if (said := _problem(value, expiry))]
        return problems

    def close(self) -> None:
        self._closed = True
        self._pool.disconnect()

    def _keys(self, prefix: bytes) -> Iterator[Sequence[bytes]]:
        """The stored keys that begin with `prefix`, in order, a chunk at a time; all of them are in memory meanwhile."""
        pattern, cursor, found = PREFIX + re.sub(rb"([\\*?^\[\]-])", rb"\\\1", prefix) + b"*", b"", set[bytes]()
        while cursor != b"0":
            ((cursor, some),) = self._read([(b"SCAN", cursor or b"0", b"MATCH", pattern, b"COUNT", b"1000")])
            found.update(some)
        keys = [key.removeprefix(PREFIX) for key in sorted(found)]
        return (keys[i : i + CHUNK] for i in range(0, len(keys), CHUNK))

    # The conversation: one reply a command, in their order.

    def _read(self, commands: Sequence[Command], waits: Sequence[Command] = ()) -> list[Any]:
        return self._sound(self._exchange(commands, waits, NOTHING), NOTHING)

    def _write(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._exchange(commands, self._wait, UNKNOWN)
        unrun = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unrun:  # a server that was restarted has no scripts yet
            in_full = [(b"EVAL", COMPARE_AND_SET, *commands[i][2:]) for i in unrun]
            for i, reply in zip(unrun, self._exchange(in_full, self._wait, UNKNOWN), strict=True):
                replies[i] = reply
        return self._sound(replies, UNKNOWN if 1 in replies else NOTHING)

    def _exchange(self, commands: Sequence[Command], waits: Sequence[Command], fate: str) -> list[Any]:
        """The replies to `commands`, errors among them, when `waits` are over: one round trip. `fate` of the batch if it breaks."""
        connection = self._connection()
        try:
            replies = _ask(connection, [*commands, *waits])
        except (ValkeyError, OSError) as e:
            raise self._unavailable(e, fate) from e
        finally:
            self._pool.release(connection)
        if waits and isinstance(replies[-1], int) and replies[-1] < self._replicas:
            raise self._unavailable(f"{replies[-1]} of {self._replicas} replicas had it in time", fate)
        return replies[: len(commands)]

    def _connection(self) -> Connection:
        """One to the primary, made anew where the last one broke."""
        if self._closed:
            raise self._unavailable("closed", NOTHING)
        try:
            return self._pool.get_connection("")
        except (ValkeyError, OSError) as e:
            raise self._unavailable(e, NOTHING) from e

    def _sound(self, replies: list[Any], fate: str) -> list[Any]:
        """The replies themselves. Raises StoreUnavailable when an error is among them."""
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if any(isinstance(error, ReadOnlyError) for error in errors):
            self._pool.disconnect(inuse_connections=False)  # another server is the primary now: look its address up again
        if errors:
            raise self._unavailable(errors[0], fate) from errors[0]
        return replies

    def _unavailable(self, why: object, fate: str) -> StoreUnavailable:
        return StoreUnavailable(f"store {self._place}: {str(why).strip(' .') or type(why).__name__}; {fate}")


def _open(url: str, timeout: float) -> tuple[str, ConnectionPool]:
    """Where it is, for messages, and a pool of connections to it, none of them made yet. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        unknown = [name for name in parse_qs(parts.query) if not name.startswith("ssl_")]
        if not parts.hostname or not re.fullmatch(r"/?\d*", parts.path) or parts.fragment or unknown:
            raise ValueError
        options = {"ssl_check_hostname": True} if parts.scheme == "valkeys" else {}
        pool = ConnectionPool(**options | parse_url(url) | CONNECTION, socket_timeout=timeout, valkey_connect_func=_greet)
        pool.make_connection()  # refuses options that it does not know
        return f"valkey://{parts.hostname}:{parts.port or 6379}/{parts.path.strip('/') or 0}", pool
    except (ValueError, TypeError, ValkeyError):  # what they say may repeat a part of the password
        raise ConfigurationError(f"store: {EXPECTED}") from None


def _greet(connection: Connection) -> None:
    """Log in. Refuses a server that is still loading, and a replica, whose answers may be old."""
    connection.on_connect()
    for reply in (replies := _ask(connection, [(b"PING",), (b"INFO", b"replication")])):
        if isinstance(reply, ResponseError):
            raise reply
    if b"role:master" not in replies[1]:
        raise ReadOnlyError("it is a replica: name the primary, or what follows it after a failover")


def _ask(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    """The replies, errors among them. Raises ValkeyError or OSError, and then the connection is over."""
    try:
        connection.send_packed_command([b"".join(map(_packed, commands))], check_health=False)
        return [_reply(connection) for _ in commands]
    except BaseException:  # a reply left unread would be taken for the next command's
        connection.disconnect()
        raise


def _packed(command: Command) -> bytes:
    """An array of bulk strings: https://valkey.io/topics/protocol."""
    return b"*%d\r\n%b" % (len(command), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in command]))


def _reply(connection: Connection) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as e:
        return e


def _compare_and_set(change: Change) -> Command:
    entry, expected = change.entry, b"" if change.expected is None else VERSION.pack(change.expected)
    value = HEADER.pack(entry.version, entry.purge_at) + entry.value
    return b"EVALSHA", SHA, b"1", PREFIX + change.key, expected, value, b"%d" % _milliseconds(entry.purge_at)


def _milliseconds(purge_at: float) -> int:
    """When the server forgets an entry: never before `purge_at`."""
    return max(1, math.ceil(min(purge_at * 1000, LATEST)))


def _decode(value: bytes | None) -> Entry | None:
    if value is None:
        return None
    if len(value) < HEADER.size:  # not ours; version 0 is no entry's, so it is never replaced
        return Entry(0, 0.0, value)
    version, purge_at = HEADER.unpack_from(value)
    return Entry(version, purge_at, value[HEADER.size :])


def _problem(value: bytes | None, expiry: int) -> str:
    """What is wrong with one stored value; empty when sound. `expiry` is the server's, in milliseconds."""
    if value is None:
        return ""
    if len(value) < HEADER.size:
        return f"{len(value)} bytes are no entry"
    version, purge_at = HEADER.unpack_from(value)
    if not 0 < version < 2**63:
        return f"version {version} is out of range"
    return "" if expiry == _milliseconds(purge_at) else f"the server forgets it at {expiry} ms, not at {purge_at} s"
