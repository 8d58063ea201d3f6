"""The embedded store and a disk that gives out: full, or not its to write. Each test is a process of its own, with limits of its own."""

import multiprocessing
import os
import resource
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from handlers.errors import StoreUnavailable
from handlers.stores.lmdb import EmbeddedStore
from tests.support.store_kinds import put

SPAWN = multiprocessing.get_context("spawn")
HERE, LARGE = put(b"a", b"here"), b"x" * 100_000


def in_a_process(work, *arguments):
    process = SPAWN.Process(target=work, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def full_disk(folder, sync):
    """No file may grow: for the store that is a full disk (EFBIG for ENOSPC). Then there is room again."""
    with closing(EmbeddedStore(folder, 16 << 20, sync)) as store:
        assert store.commit_many([HERE]) == [True]
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(f"{folder}/data.mdb"), hard))
        changes = [put(b"a", b"changed", version=2, expected=1), *(put(b"%d" % n, LARGE) for n in range(5))]
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="nothing was applied"):
                store.commit_many(changes)
            assert list(store.scan(b"")) == [(b"a", HERE.entry)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert store.commit_many(changes) == [True] * 6
        assert store.check() == []


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "no sync"])
def test_a_disk_that_is_full_applies_nothing_of_the_batch_and_the_store_goes_on_when_there_is_room(tmp_path, sync):
    in_a_process(full_disk, str(tmp_path / "db"), sync)
    with closing(EmbeddedStore(str(tmp_path / "db"), 16 << 20)) as store:
        assert [entry.value for entry in store.get_many([b"a", b"4"])] == [b"changed", LARGE]


def somebody_else(folder):
    with TemporaryDirectory() as other:
        EmbeddedStore(other, 1 << 20).close()  # lmdb imports the rest of itself now: the other user may not be able to read it
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(65534)
    with pytest.raises(StoreUnavailable, match=r"(?i)permission denied; nothing was applied"):
        EmbeddedStore(folder, 16 << 20)


@pytest.mark.parametrize("mode", [0o500, 0o555], ids=["of another user", "to be read only"])
def test_a_folder_that_may_not_be_written_is_unavailable_and_left_as_it_is(mode):
    with TemporaryDirectory() as folder:
        place = Path(folder) / "db"
        with closing(EmbeddedStore(str(place), 16 << 20)) as store:
            store.commit_many([HERE])
        for path, allowed in ((Path(folder), 0o755), (place / "data.mdb", mode & 0o444), (place / "lock.mdb", mode & 0o444), (place, mode)):
            path.chmod(allowed)
        in_a_process(somebody_else, str(place))
        for path in (place, *place.iterdir()):
            path.chmod(0o700)
        with closing(EmbeddedStore(str(place), 16 << 20)) as store:
            assert list(store.scan(b"")) == [(b"a", HERE.entry)]
