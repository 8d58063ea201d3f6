"""Move the sessions of a version to another version of their model, where their recent inputs allow it to rebuild their states."""

import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.engine.moving import moved
from handlers.errors import CellstateError
from handlers.inference.backends.base import BackendError
from handlers.sessions.unit_of_work import changed_parts
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.base import Change, Entry
from host.archives import Archive, configuration
from host.operator import Session, open_existing
from host.ports import HostError

BATCH = 256  # sessions moved in one commit


def move(url: str, old: Archive, new: Archive) -> tuple[int, int]:
    """Move live sessions in the store at `url` from one version to another, by compare-and-set.

    Return how many were moved, and how many cannot be. A session that a server changes meanwhile is neither: it stays for the next call.

    Raises:
        HostError: the store or the archive cannot be opened, or the model fails.
    """
    try:
        with _opened(url, new) as context:
            if not context.rewarming.needed:
                raise HostError(f"{new.address} rebuilds no state: {context.rewarming.off}")
            prefix, now = f"{new.name}/".encode(), time.time()
            sessions = (Session.read(key, entry) for key, entry in context.store.scan(prefix))
            keys = [session.key for session in sessions if session.record is not None and session.record.state.digest == old.state_digest]
            counts = [_move_some(context, keys[i : i + BATCH], old.state_digest, now) for i in range(0, len(keys), BATCH)]
            return sum(moved for moved, _ in counts), sum(left for _, left in counts)
    except (CellstateError, BackendError, zipfile.BadZipFile, OSError) as e:
        raise HostError(str(e)) from e


@contextmanager
def _opened(url: str, archive: Archive) -> Iterator[ServiceContext]:
    """Open the store, and a model on the CPU with the settings that its archive has."""
    with tempfile.TemporaryDirectory() as name, closing(open_existing(url)) as store:
        folder = Path(name)
        with zipfile.ZipFile(archive.path) as contents:
            contents.extractall(folder)
        settings = replace(Settings.read(configuration(archive).get("cellstate"), {}), device="cpu")
        signature = Signature.load(folder / "signature.json")
        yield ServiceContext(open_backend(folder, signature, settings), signature, store, settings)


def _move_some(context: ServiceContext, keys: Sequence[bytes], digest: bytes, now: float) -> tuple[int, int]:
    read = [Session.read(key, entry) for key, entry in zip(keys, context.store.get_many(keys), strict=True) if entry is not None]
    sessions = [(session, session.record) for session in read if session.record is not None and session.record.state.digest == digest]
    changes, left = [], 0
    for (session, record), after in zip(sessions, moved(context, [record for _, record in sessions], now), strict=True):
        if after is None:
            left += session.column(now) == "live"
            continue
        parts = changed_parts(after, record.stored) if record.stored else None
        entry = Entry(session.entry.version + 1, session.entry.purge_at, after.encode())
        changes.append(Change(session.key, session.entry.version, entry, parts))
    return sum(context.store.commit_many(changes)) if changes else 0, left
