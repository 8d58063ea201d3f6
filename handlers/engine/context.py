"""One deployed model, and all that its requests share."""

from dataclasses import dataclass, field

from handlers.errors import ConfigurationError
from handlers.inference.backends.base import Backend
from handlers.metrics import Telemetry
from handlers.sessions.quota import Quota
from handlers.sessions.record import MOST_COLUMNS
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.base import Store


@dataclass(frozen=True)
class Deployment:
    """What stays the same from batch to batch. `quota` looks at the store by itself."""

    backend: Backend
    signature: Signature
    store: Store
    settings: Settings
    telemetry: Telemetry = field(default_factory=Telemetry)
    quota: Quota = field(init=False)

    def __post_init__(self) -> None:
        if self.settings.rewarm_steps and len(self.signature.features) > MOST_COLUMNS:
            raise ConfigurationError(
                f"rewarm_steps: a session keeps inputs of up to {MOST_COLUMNS} features, this model has {len(self.signature.features)}"
            )
        object.__setattr__(self, "quota", Quota(self.store, self.settings))

    @property
    def key(self) -> bytes:
        return self.settings.state_key.encode()
