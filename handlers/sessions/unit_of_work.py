"""One round's view of the sessions it touches: read together, changed in memory, committed together by compare-and-set.

It knows stores and records. It does not know requests, models or answers.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from handlers.errors import SessionUnreadable
from handlers.sessions.machine import Phase, phase
from handlers.sessions.record import Record
from handlers.sessions.state import CorruptState
from handlers.stores.base import Change, Entry, Store


@dataclass(slots=True)
class Account:
    """One session in a round: the version that was read, and the record as it now stands in memory."""

    version: int | None
    record: Record | None
    phase: Phase
    changed: bool = False
    problem: str = ""  # why the stored bytes cannot be read
    after: str | None = None  # the session whose uncommitted record this one was copied from

    def readable(self, id: str) -> "Account":
        """Itself. Raises SessionUnreadable when the stored bytes are corrupt or of a newer release; they are left as they are."""
        if self.problem:
            raise SessionUnreadable(f"session {id}: its record cannot be read ({self.problem}); it was left as it is", session=id)
        return self


class Ledger:
    """The accounts of one round. `keys` are session ids; `namespace` keeps the models of one store apart."""

    def __init__(self, store: Store, namespace: str, model_digest: bytes, tombstone_ttl: float, now: float, new_version: int) -> None:
        self._store, self._namespace, self._digest = store, namespace, model_digest
        self._tombstone_ttl, self._now, self._new_version = tombstone_ttl, now, new_version
        self._accounts: dict[str, Account] = {}

    def key(self, id: str) -> bytes:
        return f"{self._namespace}/{id}".encode("ascii")

    def read(self, ids: Iterable[str]) -> None:
        """Read the sessions in one round trip. Raises StoreUnavailable."""
        wanted = sorted(set(ids))
        for id, entry in zip(wanted, self._store.get_many([self.key(id) for id in wanted]), strict=True):
            self._accounts[id] = self._account(entry)

    def _account(self, entry: Entry | None) -> Account:
        if entry is None:
            return Account(None, None, Phase.ABSENT)
        try:
            record = Record.decode(entry.value)
        except CorruptState as e:
            return Account(entry.version, None, Phase.ABSENT, problem=str(e))
        return Account(entry.version, record, phase(record, self._now, self._digest, self._tombstone_ttl))

    def __getitem__(self, id: str) -> Account:
        return self._accounts[id].readable(id)

    def put(self, id: str, record: Record, source: str | None = None) -> None:
        """Change the session in memory; later requests of the same round see it. `source` is the session it was copied from."""
        account = self._accounts[id]
        account.record, account.changed = record, True
        if source is not None and self._accounts[source].changed:
            account.after = source
        account.phase = phase(record, self._now, self._digest, self._tombstone_ttl)

    @property
    def changed(self) -> Collection[str]:
        """The sessions that `commit` would write."""
        return [id for id, account in self._accounts.items() if account.changed]

    def commit(self) -> Collection[str]:
        """Commit what changed; the ids that lost the race, of which nothing was applied. Raises StoreUnavailable."""
        waiting, lost = set(self.changed), set[str]()
        while waiting:  # once, but for copies of what this very commit changes: they must not outlive a source that lost
            ready = [id for id in waiting if self._accounts[id].after not in waiting]
            lost.update(id for id in ready if self._accounts[id].after in lost)
            changes = [id for id in ready if id not in lost]
            done = self._store.commit_many([self._change(id, self._accounts[id]) for id in changes])
            for id, applied in zip(changes, done, strict=True):
                self._accounts[id].changed = not applied  # should the store fail on a later part, this one is not to be refused
                if not applied:
                    lost.add(id)
            waiting.difference_update(ready)
        return lost

    def _change(self, id: str, account: Account) -> Change:
        record = account.record
        assert record is not None  # `put` set it
        # Steps of a random size: after a failover that lost commits, the same number would not be the same record.
        version = account.version + 1 + self._new_version % 1_024 if account.version is not None else self._new_version
        return Change(self.key(id), account.version, Entry(version, record.expires_at + self._tombstone_ttl, record.encode()))
