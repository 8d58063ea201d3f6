"""The sessions that one attempt at a batch touches: read together, changed in memory, and committed together by compare-and-set."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from handlers.errors import SessionUnreadable
from handlers.sessions.machine import Phase, PhaseRules
from handlers.sessions.record import Record
from handlers.sessions.state import CorruptState
from handlers.sessions.tenancy import session_id
from handlers.stores.base import Change, Entry, Store

VERSION_STEPS = 1_024  # versions rise by a random step up to this


@dataclass(slots=True)
class LoadedSession:
    """One session in an attempt, by its key (tenancy.py): the version that was read, and the record as it now is in memory."""

    key: str
    version: int | None
    record: Record | None
    phase: Phase
    changed: bool = False
    problem: str = ""  # why the stored bytes cannot be decoded
    copied_from: str | None = None  # the session whose uncommitted record this one was copied from

    def readable(self) -> "LoadedSession":
        """Return the session itself.

        Raises:
            SessionUnreadable: the stored bytes are corrupt or of a newer release. They are left as they are.
        """
        if self.problem:
            id = session_id(self.key)
            raise SessionUnreadable(f"session {id}: its record cannot be read ({self.problem}); it was left as it is", session=id)
        return self


class UnitOfWork:
    """The sessions of one attempt. `namespace` keeps the models of one store apart; `random` is a number for new versions."""

    def __init__(self, store: Store, namespace: str, rules: PhaseRules, now: float, random: int) -> None:
        self._store, self._namespace, self._rules, self._now, self._random = store, namespace, rules, now, random
        self._sessions: dict[str, LoadedSession] = {}

    def store_key(self, key: str) -> bytes:
        """Return where the store keeps a session."""
        return f"{self._namespace}/{key}".encode("ascii")

    def read(self, keys: Iterable[str]) -> None:
        """Read the sessions in one round trip.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        wanted = sorted(keys)  # a store reads neighbours faster
        for key, entry in zip(wanted, self._store.get_many([self.store_key(key) for key in wanted]), strict=True):
            self._sessions[key] = self._loaded(key, entry)

    def _loaded(self, key: str, entry: Entry | None) -> LoadedSession:
        if entry is None:
            return LoadedSession(key, None, None, Phase.ABSENT)
        try:
            record = Record.decode(entry.value)
        except CorruptState as e:
            return LoadedSession(key, entry.version, None, Phase.ABSENT, problem=str(e))
        return LoadedSession(key, entry.version, record, self._rules.phase(record, self._now))

    def __getitem__(self, key: str) -> LoadedSession:
        return self._sessions[key].readable()

    def put(self, key: str, record: Record, source: str | None = None) -> None:
        """Change a session in memory; later requests of the attempt see the change. `source` is the session it was copied from."""
        session = self._sessions[key]
        session.record, session.changed = record, True
        if source is not None and self._sessions[source].changed:
            session.copied_from = source
        session.phase = self._rules.phase(record, self._now)

    @property
    def changed(self) -> Collection[str]:
        """The sessions that `commit` would write."""
        return [key for key, session in self._sessions.items() if session.changed]

    def commit(self) -> Collection[str]:
        """Commit what changed, and return the keys of the sessions that another worker changed first. Of those nothing was applied.

        Usually this is one pass. A fork of a session that this attempt changed is committed after its source, and is dropped if the
        source lost.

        Raises:
            StoreUnavailable: the store failed; sessions committed until then are no longer `changed`.
        """
        waiting, lost = set(self.changed), set[str]()
        while waiting:
            ready = [key for key in waiting if self._sessions[key].copied_from not in waiting]
            lost.update(key for key in ready if self._sessions[key].copied_from in lost)
            self._commit([key for key in ready if key not in lost], lost)
            waiting.difference_update(ready)
        return lost

    def _commit(self, keys: list[str], lost: set[str]) -> None:
        sessions = [self._sessions[key] for key in keys]
        applied = self._store.commit_many([self._change(session) for session in sessions])
        for session, done in zip(sessions, applied, strict=True):
            session.changed = not done
            if not done:
                lost.add(session.key)

    def _change(self, session: LoadedSession) -> Change:
        record = session.record
        assert record is not None  # `put` set it
        # Bump by a random amount: after a failover that lost writes, a plain counter could reuse a version for other contents, and
        # compare-and-set would wrongly succeed.
        version = self._random if session.version is None else session.version + 1 + self._random % VERSION_STEPS
        return Change(
            self.store_key(session.key), session.version, Entry(version, record.expires_at + self._rules.tombstone_ttl, record.encode())
        )
