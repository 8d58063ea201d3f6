"""The sessions that one attempt at a batch touches: read together, changed in memory, and committed together by compare-and-set."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from handlers.errors import Overloaded, SessionUnreadable
from handlers.sessions.kept import pack_kept, unpack_kept
from handlers.sessions.record import Record
from handlers.sessions.state import CorruptState, State
from handlers.sessions.tenancy import session_id
from handlers.stores.base import Change, Entry, Parts, Store, StoreFull

VERSION_STEPS = 1_024  # versions rise by a random step up to this


class LoadedSession(Struct):
    """One session in an attempt: the version that was read, and the record as it now is in memory."""

    name: str  # the tenant's and the session's: tenancy.py
    key: bytes  # in the store
    version: int | None = None
    record: Record | None = None
    stored: Collection[int] = ()  # positions of the earlier states that the store has apart from the record
    problem: str = ""  # why the stored bytes cannot be decoded
    copied_from: str | None = None  # the session whose uncommitted record this one was copied from

    def unreadable(self, problem: object) -> SessionUnreadable:
        """Return the error that says what is wrong with the stored bytes."""
        id = session_id(self.name)
        return SessionUnreadable(f"session {id}: its record cannot be read ({problem}); it was left as it is", session=id)


class UnitOfWork:
    """The sessions of one attempt.

    `namespace` keeps the models of one store apart, an entry may be purged `tombstone_ttl` seconds after its session expired, and `random`
    is a number for new versions.
    """

    def __init__(self, store: Store, namespace: str, tombstone_ttl: float, random: int) -> None:
        self._store, self._prefix = store, f"{namespace}/".encode("ascii")
        self._tombstone_ttl, self._random = tombstone_ttl, random
        self._keys: dict[str, bytes] = {}  # in the store, of the names that were read
        self._entries: dict[str, Entry | None] = {}
        self._sessions: dict[str, LoadedSession] = {}  # those whose entries were decoded
        self._changed: dict[str, LoadedSession] = {}
        self._encoded: dict[str, Change] = {}
        self._has_copies = False  # of changed sessions

    def read(self, names: Iterable[str]) -> None:
        """Read the sessions in one round trip.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        wanted = sorted(names)  # a store reads neighbours faster
        self._keys = {name: self._prefix + name.encode("ascii") for name in wanted}
        self._entries = dict(zip(wanted, self._store.get_many(list(self._keys.values())), strict=True))

    def stored(self, names: Iterable[str]) -> list[bytes | None]:
        """Return the sessions' records as they were read, encoded; None for a session that is not in the store."""
        return [None if entry is None else entry.value for entry in map(self._entries.__getitem__, names)]

    def __getitem__(self, name: str) -> LoadedSession:
        """Return a session.

        Raises:
            SessionUnreadable: the stored bytes are corrupt or of a newer release. They are left as they are.
        """
        session = self._sessions.get(name) or self._load(name)
        if session.problem:
            raise session.unreadable(session.problem)
        return session

    def _load(self, name: str) -> LoadedSession:
        session, entry = LoadedSession(name, self._keys[name]), self._entries[name]
        self._sessions[name] = session
        if entry is not None:
            session.version = entry.version
            try:
                session.record = Record.decode(entry.value)
                session.stored = session.record.stored if session.record.kept else ()
            except CorruptState as e:
                session.problem = str(e)
        return session

    def state_at(self, name: str, position: int) -> State | None:
        """Return the current or an earlier state of a session at `position`, if it is kept.

        Raises:
            StoreUnavailable: the store does not answer.
            Overloaded: another worker changes the session at this moment.
            SessionUnreadable: the stored bytes of the state are corrupt or not there.
        """
        session = self[name]
        record = session.record
        assert record is not None  # the table lets only sessions that are there be rewound
        at_hand = [state for state in (record.state, *record.unstored) if state.position == position]
        if at_hand or position not in record.kept:
            return at_hand[0] if at_hand else None
        return self._read_kept(session, record.state.digest, position)

    def _read_kept(self, session: LoadedSession, digest: bytes, position: int) -> State:
        [part] = self._store.get_parts(session.key, [position])
        try:
            if part is None:
                raise CorruptState(f"the earlier state at {position} is missing")
            state = unpack_kept(part)
            if (state.position, state.digest) != (position, digest):
                raise CorruptState(f"the earlier state at {position} is another one")
        except CorruptState as e:
            [entry] = self._store.get_many([session.key])
            if entry is None or entry.version != session.version:
                raise Overloaded("the session is being changed by another request; nothing was applied: try again") from e
            raise session.unreadable(e) from e
        return state

    def put(self, name: str, record: Record, source: str | None = None) -> None:
        """Change a session in memory; later requests of the attempt see the change. `source` is the session it was copied from."""
        session = self._changed[name] = self._sessions[name]
        session.record = record
        if source is not None and source in self._changed:
            session.copied_from, self._has_copies = source, True

    def put_encoded(self, names: Sequence[str], values: Sequence[bytes], expires_at: float) -> None:
        """Change sessions that are in the store and keep no earlier states, whose new records are encoded; nothing else touches them."""
        purge_at, rise = expires_at + self._tombstone_ttl, self._rise
        for name, value in zip(names, values, strict=True):
            entry = self._entries[name]
            assert entry is not None  # only what is there goes on
            self._encoded[name] = Change(self._keys[name], entry.version, Entry(entry.version + rise, purge_at, value))

    @property
    def has_changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._changed or self._encoded)

    @property
    def changed(self) -> Collection[str]:
        """The sessions that `commit` would write."""
        return self._changed.keys() | self._encoded.keys()

    def commit(self) -> Collection[str]:
        """Commit what changed, and return the names of the sessions that another worker changed first. Of those nothing was applied.

        Usually this is one pass. A fork of a session that this attempt changed is committed after its source, and is dropped if the
        source lost.

        Raises:
            StoreUnavailable: the store failed; sessions committed until then are no longer `changed`.
        """
        waiting, encoded, lost = list(self._changed.values()), self._encoded, set[str]()
        while waiting or encoded:
            names = {session.name for session in waiting} if self._has_copies else ()
            ready = [session for session in waiting if session.copied_from not in names]
            waiting = [session for session in waiting if session.copied_from in names]
            lost.update([session.name for session in ready if session.copied_from in lost])
            self._commit(encoded, [session for session in ready if session.name not in lost], lost)
            encoded = {}
        return lost

    def _commit(self, encoded: Mapping[str, Change], sessions: Sequence[LoadedSession], lost: set[str]) -> None:
        """Commit encoded sessions and others; add the names of those that lost or had no room, which stay `changed`."""
        names = [*encoded, *[session.name for session in sessions]]
        full: StoreFull | None = None
        try:
            applied: Sequence[bool | None] = self._store.commit_many([*encoded.values(), *self._changes(sessions)])
        except StoreFull as e:
            full, applied = e, e.applied or [None] * len(names)
        lost.update([name for name, done in zip(names, applied, strict=True) if not done])
        self._encoded = {name: self._encoded[name] for name in lost.intersection(self._encoded)}
        for session in sessions:
            if session.name not in lost:
                del self._changed[session.name]
        if full is not None:
            raise full

    @property
    def _rise(self) -> int:
        """By how much versions rise.

        It is a random amount: after a failover that lost writes, a plain counter could reuse a version for other contents, and
        compare-and-set would wrongly succeed.
        """
        return 1 + self._random % VERSION_STEPS

    def _changes(self, sessions: Sequence[LoadedSession]) -> list[Change]:
        first, rise, changes = self._random, self._rise, []
        for session in sessions:
            record, version = session.record, session.version
            assert record is not None  # `put` set it
            entry = Entry(first if version is None else version + rise, record.expires_at + self._tombstone_ttl, record.encode())
            parts = changed_parts(record, session.stored) if record.kept or session.stored else None
            changes.append(Change(session.key, version, entry, parts))
        return changes


def changed_parts(record: Record, stored: Collection[int]) -> Parts:
    """Return what changes among the earlier states of a session, of which the store has those at the positions `stored`."""
    return Parts([(state.position, pack_kept(state)) for state in record.unstored], sorted(set(stored).difference(record.kept)))
