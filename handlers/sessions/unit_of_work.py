"""The sessions that one attempt at a batch touches: read together, changed in memory, and committed together by compare-and-set."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from handlers.errors import SessionUnreadable
from handlers.sessions.machine import Phase, PhaseRules
from handlers.sessions.record import Record
from handlers.sessions.state import CorruptState
from handlers.stores.base import Change, Entry, Store

VERSION_STEPS = 1_024  # versions rise by a random step up to this


@dataclass(slots=True)
class LoadedSession:
    """One session in an attempt: the version that was read, and the record as it now is in memory."""

    id: str
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
            raise SessionUnreadable(f"session {self.id}: its record cannot be read ({self.problem}); it was left as it is", session=self.id)
        return self


class UnitOfWork:
    """The sessions of one attempt. `namespace` keeps the models of one store apart; `random` is a number for new versions."""

    def __init__(self, store: Store, namespace: str, rules: PhaseRules, now: float, random: int) -> None:
        self._store, self._namespace, self._rules, self._now, self._random = store, namespace, rules, now, random
        self._sessions: dict[str, LoadedSession] = {}

    def key(self, id: str) -> bytes:
        """Return the key of a session in the store."""
        return f"{self._namespace}/{id}".encode("ascii")

    def read(self, ids: Iterable[str]) -> None:
        """Read the sessions in one round trip.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        wanted = sorted(ids)  # a store reads neighbours faster
        for id, entry in zip(wanted, self._store.get_many([self.key(id) for id in wanted]), strict=True):
            self._sessions[id] = self._loaded(id, entry)

    def _loaded(self, id: str, entry: Entry | None) -> LoadedSession:
        if entry is None:
            return LoadedSession(id, None, None, Phase.ABSENT)
        try:
            record = Record.decode(entry.value)
        except CorruptState as e:
            return LoadedSession(id, entry.version, None, Phase.ABSENT, problem=str(e))
        return LoadedSession(id, entry.version, record, self._rules.phase(record, self._now))

    def __getitem__(self, id: str) -> LoadedSession:
        return self._sessions[id].readable()

    def put(self, id: str, record: Record, source: str | None = None) -> None:
        """Change a session in memory; later requests of the attempt see the change. `source` is the session it was copied from."""
        session = self._sessions[id]
        session.record, session.changed = record, True
        if source is not None and self._sessions[source].changed:
            session.copied_from = source
        session.phase = self._rules.phase(record, self._now)

    @property
    def changed(self) -> Collection[str]:
        """The sessions that `commit` would write."""
        return [id for id, session in self._sessions.items() if session.changed]

    def commit(self) -> Collection[str]:
        """Commit what changed, and return the ids of the sessions that another worker changed first. Of those nothing was applied.

        Usually this is one pass. A fork of a session that this attempt changed is committed after its source, and is dropped if the
        source lost.

        Raises:
            StoreUnavailable: the store failed; sessions committed until then are no longer `changed`.
        """
        waiting, lost = set(self.changed), set[str]()
        while waiting:
            ready = [id for id in waiting if self._sessions[id].copied_from not in waiting]
            lost.update(id for id in ready if self._sessions[id].copied_from in lost)
            self._commit([id for id in ready if id not in lost], lost)
            waiting.difference_update(ready)
        return lost

    def _commit(self, ids: list[str], lost: set[str]) -> None:
        sessions = [self._sessions[id] for id in ids]
        applied = self._store.commit_many([self._change(session) for session in sessions])
        for session, done in zip(sessions, applied, strict=True):
            session.changed = not done
            if not done:
                lost.add(session.id)

    def _change(self, session: LoadedSession) -> Change:
        record = session.record
        assert record is not None  # `put` set it
        # Bump by a random amount: after a failover that lost writes, a plain counter could reuse a version for other contents, and
        # compare-and-set would wrongly succeed.
        version = self._random if session.version is None else session.version + 1 + self._random % VERSION_STEPS
        return Change(self.key(session.id), session.version, Entry(version, record.expires_at + self._rules.tombstone_ttl, record.encode()))
