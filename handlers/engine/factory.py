"""Choose the implementations behind the two seams. Only what is chosen is imported: one worker never loads two runtimes."""

from pathlib import Path

from handlers.clock import ClockGuard
from handlers.errors import ConfigurationError
from handlers.inference.backends.base import Backend
from handlers.settings import Settings, masked
from handlers.signature import Signature
from handlers.stores.base import Store


def open_backend(folder: Path, signature: Signature, settings: Settings) -> Backend:
    """Load the artefact in `folder` for the configured backend. Raises ConfigurationError."""
    if settings.backend not in signature.artefacts:
        raise ConfigurationError(f"backend: the archive has no artefact for {settings.backend}; it has {', '.join(signature.artefacts)}")
    artefact = folder / signature.artefacts[settings.backend]
    if not artefact.is_file():
        raise ConfigurationError(f"backend: {artefact.name} is missing from the archive: build it again")
    if settings.backend == "torchscript":
        from handlers.inference.backends.torchscript import TorchScriptBackend

        return TorchScriptBackend(artefact, settings.device, settings.threads)
    from handlers.inference.backends.onnxruntime import OrtBackend

    return OrtBackend(artefact, signature, settings.device, settings.threads)


def open_store(settings: Settings, clock: ClockGuard | None = None) -> Store:
    """The store that `settings.store` names, whose own clock, where it has one, is a witness to `clock`.

    Raises ConfigurationError for an unknown kind, StoreUnavailable for one that does not open.
    """
    scheme, _, place = settings.store_url.partition("://")
    if scheme == "memory":
        from handlers.stores.memory import MemoryStore

        return MemoryStore()
    if scheme == "lmdb" and place:
        from handlers.stores.lmdb import EmbeddedStore

        return EmbeddedStore(place, settings.store_bytes, settings.store_sync)
    if scheme in ("valkey", "valkeys") and place:
        from handlers.stores.valkey import ValkeyStore

        clocks = () if clock is None else (clock, clock.witness)
        return ValkeyStore(settings.store_url, settings.store_timeout, settings.store_replicas, *clocks)
    expected = "memory://, lmdb:///folder or valkey://host:port/db"
    raise ConfigurationError(f"store: expected {expected}, got {masked(settings.store_url)!r}")
