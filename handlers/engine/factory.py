"""Choose the implementations behind the two seams. Only what is chosen is imported: one worker never loads two runtimes."""

from pathlib import Path

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


def open_store(settings: Settings) -> Store:
    """The store that `settings.store` names. Raises ConfigurationError for an unknown kind, StoreUnavailable for one that does not open."""
    scheme, _, place = settings.store_url.partition("://")
    if scheme == "memory":
        from handlers.stores.memory import MemoryStore

        return MemoryStore()
    if scheme == "lmdb" and place:
        from handlers.stores.lmdb import EmbeddedStore

        return EmbeddedStore(place, settings.store_bytes, settings.store_sync)
    if scheme in ("valkey", "valkeys") and place:
        from handlers.stores.valkey import ValkeyStore

        return ValkeyStore(settings.store_url, settings.store_timeout, settings.store_replicas)
    expected = "memory://, lmdb:///folder or valkey://host:port/db"
    raise ConfigurationError(f"store: expected {expected}, got {masked(settings.store_url)!r}")
