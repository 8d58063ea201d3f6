"""One served model, and what all of its requests share."""

from dataclasses import dataclass, field
from functools import cached_property

from handlers.errors import ConfigurationError
from handlers.forecasting.distributions import distributions
from handlers.forecasting.intervals import Intervals
from handlers.forecasting.observations import Timeline
from handlers.inference.backends.base import Backend
from handlers.metrics import Telemetry
from handlers.sessions.machine import PhaseRules
from handlers.sessions.quota import Quota
from handlers.sessions.record import MAX_COLUMNS
from handlers.sessions.tenant_quota import TenantQuota
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.base import Store


@dataclass(frozen=True)
class ServiceContext:
    """What stays the same from batch to batch.

    Raises:
        ConfigurationError: the settings do not fit the model.
    """

    backend: Backend
    signature: Signature
    store: Store
    settings: Settings
    telemetry: Telemetry = field(default_factory=Telemetry)

    def __post_init__(self) -> None:
        _ = self.timeline, self.intervals, distributions(self.signature)  # what is wrong in them refuses to start
        if self.settings.rewarm_steps and len(self.signature.features) > MAX_COLUMNS:
            raise ConfigurationError(
                f"rewarm_steps: a session keeps inputs of up to {MAX_COLUMNS} features, this model has {len(self.signature.features)}"
            )

    @cached_property
    def timeline(self) -> Timeline | None:
        """Turns observations into inputs; None for a model without a calendar."""
        return Timeline.of(self.signature)

    @cached_property
    def intervals(self) -> Intervals | None:
        """Gives forecasts their intervals; None for a model that was not calibrated."""
        return Intervals.of(self.signature)

    @cached_property
    def quota(self) -> Quota:
        """Decides whether the store has room for another session."""
        return Quota(self.store, self.settings)

    @cached_property
    def tenant_quota(self) -> TenantQuota:
        """Decides whether a tenant may have another session."""
        return TenantQuota(self.store, self.signature.name, self.settings.max_sessions_per_tenant)

    @cached_property
    def has_usual_steps(self) -> bool:
        """Whether a step that asks for its prediction alone changes nothing but the state and the answer, and what feeds back."""
        learns = self.timeline is not None or self.intervals is not None
        return self.signature.streaming and not (learns or self.settings.keep_versions or self.settings.rewarm_steps)

    @cached_property
    def rules(self) -> PhaseRules:
        """What the phase of a session depends on."""
        settings, signature = self.settings, self.signature
        return PhaseRules(signature.digest, settings.tombstone_ttl, settings.rewarm_steps, len(signature.features), signature.version)
