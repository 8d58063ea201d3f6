"""The folder of the archives that a server serves, and how the server notices that it changed."""

import json
import zipfile

import pytest

from host.archives import find, min_workers, refuse_split_memory
from host.model_folder import ModelFolder
from host.ports import HostError
from host.torchserve.launcher import TorchServe


def build(store, version, name="one"):
    store.mkdir(exist_ok=True, parents=True)
    signature = {"name": name, "version": version, "inputs": {"features": ["load"]}, "streaming": {"possible": True}}
    with zipfile.ZipFile(store / f"built-{version}.mar", "w") as contents:
        contents.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"configFile": "model-config.yaml"}}))
        contents.writestr("model-config.yaml", "minWorkers: 1\n")
        contents.writestr("signature.json", json.dumps(signature))


@pytest.fixture
def store(tmp_path):
    for version in ("1.0", "2.0"):
        build(tmp_path / "store", version)
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / "models").mkdir(parents=True)
    return ModelFolder(tmp_path / "run" / "models", {})


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_it_is_filled_with_copies_that_the_store_no_longer_affects(store, folder):
    (folder.path / "stale-0.1.mar").write_bytes(b"")
    copies = folder.fill(find(store))
    assert names(folder) == ["one-1.0.mar", "one-2.0.mar"]
    for path in store.iterdir():
        path.write_bytes(b"")
    assert [archive.address for archive in folder.archives()] == [archive.address for archive in copies] == ["one/1.0", "one/2.0"]


def test_the_options_of_the_server_are_in_its_copies(store, folder):
    [one, _] = ModelFolder(folder.path, {"minWorkers": 3}).fill(find(store))
    assert min_workers(one) == 3


@pytest.mark.parametrize("sessions", ["memory://", "lmdb:///sessions", "valkey://here"])
def test_sessions_in_memory_are_refused_where_each_of_several_workers_would_have_its_own(store, folder, sessions):
    several, one = ModelFolder(folder.path, {"minWorkers": 2}).fill(find(store)), find(store)
    refuse_split_memory(one, sessions)
    if sessions != "memory://":
        refuse_split_memory(several, sessions)
        return
    with pytest.raises(
        HostError, match=r"memory:// lives inside one worker, and one/1\.0 has 2: serve with --workers 1, or use lmdb:// or"
    ):
        refuse_split_memory([*one, *several], sessions)


def test_a_server_with_its_sessions_in_memory_starts_nothing_for_several_workers(store, tmp_path):
    environment = {"CELLSTATE_STORE": "memory://"}
    server = TorchServe(tmp_path / "run", store, authenticate=False, model_options={"minWorkers": 2}, environment=environment)
    with pytest.raises(HostError, match="memory:// lives inside one worker"):
        server.launch()
    assert server.process is None


def test_a_version_is_hidden_until_it_is_published_and_gone_when_it_is_removed(store, folder):
    one, two = find(store)
    folder.fill([one])
    staged = folder.stage(two)
    assert [archive.version for archive in folder.archives()] == ["1.0"]
    assert folder.publish(staged).path.name == "one-2.0.mar"
    assert [archive.version for archive in folder.archives()] == ["1.0", "2.0"]
    folder.stage(two)
    folder.remove(two)
    assert names(folder) == ["one-1.0.mar"]


def test_a_server_looks_again_when_the_folder_has_changed_and_not_when_it_cannot_be_read(store, folder, tmp_path):
    server = TorchServe(tmp_path / "run", store, authenticate=False)
    assert [archive.version for archive in server.archives] == ["1.0", "2.0"]
    folder.fill(find(store)[:1])
    server.refresh()
    assert [archive.version for archive in server.archives] == ["1.0"]
    for path in folder.path.iterdir():
        path.unlink()
    server.refresh()
    folder.path.rmdir()
    server.refresh()
    assert folder.changed_at == 0
    assert [archive.version for archive in server.archives] == ["1.0"]
