"""Starts the service in a TorchServe worker."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers import garbage
from handlers.clock import ClockGuard
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend, open_store
from handlers.engine.service import Service
from handlers.errors import ConfigurationError
from handlers.keys import KeyRing
from handlers.metrics import Telemetry
from handlers.protocols.frontend import Frontend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.reopening import ReopeningStore
from handlers.torchserve import logs, messages
from handlers.torchserve.metrics_reporter import MetricsReporter

log = logging.getLogger("cellstate")


def start(folder: Path, config: Mapping[str, Any], environment: Mapping[str, str]) -> Frontend:
    """Return the front end over the archive that TorchServe unpacked in `folder`. `config` is the archive's YAML.

    Raises:
        ConfigurationError: the settings or the archive are wrong. A store that is away is none of that: it is opened later.
    """
    settings = Settings.read(config.get("cellstate"), environment)
    logs.configure(settings)
    signature = Signature.load(folder / "signature.json")
    backend = open_backend(folder, signature, settings)
    telemetry = Telemetry((signature.name, signature.version))
    clock = ClockGuard(settings.clock_confirmation, lambda: telemetry.count("clock_jumps_total"), reference=settings.clock_reference)
    store = ReopeningStore(lambda: open_store(settings, clock), lambda available: telemetry.set("store_available", available))
    service = Service(ServiceContext(backend, signature, store, settings, telemetry), clock, latest=clock.latest)
    if settings.fast_messages:
        messages.install()
    if settings.metrics_interval:
        MetricsReporter(telemetry, settings.metrics_interval).start()
    garbage.tune()
    keeps = service.context.rewarming
    log.info(
        "recent_inputs model=%s kept=%d %s", signature.label, keeps.steps, f"off: {keeps.off}" if keeps.off else "to rebuild states from"
    )
    log.info("started model=%s device=%s settings=%s", signature.label, backend.device, json.dumps(settings.effective()))
    return Frontend(service, _key_ring(settings))


def _key_ring(settings: Settings) -> KeyRing | None:
    """Return the keys that requests need; None where no key file is configured. Raises ConfigurationError."""
    if not settings.key_file:
        return None
    try:
        return KeyRing(Path(settings.key_file), bytes.fromhex(settings.host_key_sha256))
    except ValueError as e:
        raise ConfigurationError(f"host_key_sha256: {e}") from e
