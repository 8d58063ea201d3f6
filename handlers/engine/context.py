"""One served model, and what all of its requests share."""

from dataclasses import dataclass, field
from functools import cached_property

from handlers.engine.rewarming import Rewarming
from handlers.forecasting.intervals import Intervals
from handlers.forecasting.memory_columns import MemoryColumns
from handlers.forecasting.observations import Timeline
from handlers.forecasting.predictive import Predictive
from handlers.forecasting.scoring import Judge
from handlers.inference.backends.base import Backend
from handlers.metrics import Telemetry
from handlers.sessions.machine import PhaseRules
from handlers.sessions.quota import Quota
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
        _ = self.timeline, self.judge, self.rewarming  # what is wrong in them refuses to start

    @cached_property
    def timeline(self) -> Timeline | None:
        """Turns observations into inputs; None for a model without a calendar."""
        return Timeline.of(self.signature)

    @cached_property
    def intervals(self) -> Intervals | None:
        """Gives forecasts their intervals; None for a model that was not calibrated."""
        return Intervals.of(self.signature)

    @cached_property
    def judge(self) -> Judge | None:
        """Scores the predictions of sessions; None for a model of points that was not calibrated."""
        return self.intervals or Predictive.of(self.signature)

    @cached_property
    def rewarming(self) -> Rewarming:
        """Decides which recent inputs a session keeps."""
        return Rewarming.of(self.signature, self.timeline, self.settings)

    @cached_property
    def memories(self) -> MemoryColumns:
        """Reads and writes what the streams of many sessions remember."""
        return MemoryColumns(self.signature, self.timeline, self.judge)

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
        """Whether a step that asks for its prediction alone changes nothing but state, recent inputs, answer, and the stream's memory.

        What a stream learns it can remember only where something feeds back.
        """
        forgets = self.memories.learns and not self.signature.feedback
        return self.signature.streaming and not (forgets or self.settings.keep_versions)

    @cached_property
    def rules(self) -> PhaseRules:
        """What the phase of a session depends on."""
        signature, rewarming = self.signature, self.rewarming
        steps, layouts, columns = rewarming.needed, frozenset(rewarming.layouts), len(signature.features)
        return PhaseRules(signature.digest, self.settings.tombstone_ttl, steps, layouts, columns, signature.version)
