"""What the requests of one attempt at a batch share."""

from dataclasses import dataclass, field

from handlers.engine.context import ServiceContext
from handlers.errors import StoreUnavailable
from handlers.sessions.tenancy import tenant_of
from handlers.sessions.unit_of_work import UnitOfWork


@dataclass(slots=True)
class Batch:
    """One attempt's sessions and time.

    `now` is seconds since the epoch, and `latest` the same or later: what is written while the clock is doubted must not expire too early.
    """

    context: ServiceContext
    sessions: UnitOfWork
    now: float
    latest: float
    created: dict[str, int] = field(default_factory=dict)  # sessions that the attempt adds to the store, by tenant
    expires_at: float = field(init=False)  # when a session that is used now expires

    def __post_init__(self) -> None:
        self.expires_at = self.latest + self.context.settings.session_ttl

    def admit(self, name: str) -> None:
        """Ask the quota for room, unless the session is in the store already.

        Raises:
            QuotaExceeded: there is no room for another session.
            StoreUnavailable: the store cannot tell.
        """
        if self.sessions[name].record is not None:
            return
        try:
            tenant = tenant_of(name)
            already = self.created.get(tenant, 0)
            self.context.tenant_quota.admit(tenant, already)
            self.context.quota.admit(sum(self.created.values()))
            self.created[tenant] = already + 1
        except StoreUnavailable:
            self.context.telemetry.count("store_errors_total", 1, "usage")
            raise
