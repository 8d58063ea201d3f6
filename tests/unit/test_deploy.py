"""Deploying, rolling back and retiring versions on running servers: what is switched, what is kept, and what a failure changes."""

import json
import shutil
import time
import zipfile
from contextlib import ExitStack

import numpy as np
import pytest

from handlers.engine.factory import open_store
from handlers.sessions.record import Record
from handlers.sessions.state import State
from handlers.settings import Settings
from handlers.stores.base import Change, Entry
from host.__main__ import main
from host.deployed import FILE, Deployed, locked
from host.ports import HostError
from tests.support.fake_torchserve import running

FAR = 4e9  # seconds since the epoch


def build(folder, version, name="one", answer=(1.0, 2.0), digest="ab", more=b""):
    """An archive of a model that answers its example with `answer`."""
    folder.mkdir(exist_ok=True)
    signature = {
        "name": name,
        "version": version,
        "inputs": {"features": ["load"], "example": [[1.0]]},
        "outputs": {"example": list(answer)},
        "streaming": {"possible": True},
        "digests": {"model": digest * 32},
    }
    path = folder / f"{name}-{version}.mar"
    with zipfile.ZipFile(path, "w") as contents:
        contents.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"configFile": "model-config.yaml"}}))
        contents.writestr("model-config.yaml", "minWorkers: 2\n")
        contents.writestr("signature.json", json.dumps(signature))
        contents.writestr("handlers/more.py", more)
    return path


class Place:
    """A store with one/1.0, servers that serve it, and a folder with archives to deploy."""

    def __init__(self, tmp_path, stack):
        self.tmp, self._stack = tmp_path, stack
        self.store, self.built, self.sessions = tmp_path / "store", tmp_path / "built", f"lmdb://{tmp_path / 'sessions'}"
        build(self.store, "1.0")
        open_store(Settings(store=self.sessions)).close()

    def serve(self, name="run", store=None, **described):
        folder = self.tmp / name
        (folder / "models").mkdir(parents=True)
        shutil.copy(self.store / "one-1.0.mar", folder / "models")
        return self._stack.enter_context(running(folder, store or self.store, self.sessions, **described))

    def run(self, *arguments, servers=("run",)):
        options = [part for name in servers for part in ("--server", str(self.tmp / name))]
        return main([*map(str, arguments), *options])

    def served(self, name="run"):
        return sorted(path.name for path in (self.tmp / name / "models").iterdir())

    def stored(self):
        return sorted(path.name for path in self.store.iterdir())

    def put_session(self, name, digest="ab", expires_at=FAR, model="one"):
        store = open_store(Settings(store=self.sessions))
        try:
            state = State(np.zeros(4, np.float32), 3, bytes.fromhex(digest * 16))
            record = Record(state, 0.0, expires_at, 0, b"\0" * 16, version="1.0")
            store.commit_many([Change(f"{model}/{name}".encode(), None, Entry(1, FAR, record.encode()))])
        finally:
            store.close()


@pytest.fixture
def place(tmp_path):
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def test_a_version_is_brought_up_compared_and_made_the_default_on_every_server(place, capsys):
    servers = [place.serve("a"), place.serve("b")]
    two = build(place.built, "2.0", digest="cd")
    assert place.run("deploy", two, servers=("a", "b")) == 0
    lines = capsys.readouterr().out.replace(f"{place.tmp}/", "").splitlines()
    assert lines == [
        "a: one/2.0 answers as recorded, difference 0.0e+00",
        "b: one/2.0 answers as recorded, difference 0.0e+00",
        "a: one/2.0 is the default; 1.0 goes on serving its sessions until it is retired",
        "b: one/2.0 is the default; 1.0 goes on serving its sessions until it is retired",
    ]
    for server in servers:
        assert server.defaults == {"one": "2.0"}
        assert server.versions.keys() == {"one/1.0", "one/2.0"}
    assert place.served("a") == place.served("b") == place.stored() == ["one-1.0.mar", "one-2.0.mar"]
    assert Deployed.read(place.tmp / "a").defaults == {"one": ["1.0", "2.0"]}


def test_a_version_of_the_store_and_a_new_model_can_be_deployed(place):
    server = place.serve()
    build(place.store, "2.0")
    assert place.run("deploy", "one:2.0") == 0
    assert place.run("deploy", build(place.built, "1.0", name="other")) == 0
    assert server.defaults == {"one": "2.0", "other": "1.0"}


def test_deploying_what_is_served_makes_it_the_default_and_loads_nothing(place):
    server = place.serve()
    assert place.run("deploy", build(place.built, "2.0")) == 0
    server.asked.clear()
    assert place.run("deploy", place.built / "one-2.0.mar") == 0
    assert place.run("deploy", "one:1.0") == 0
    assert server.defaults == {"one": "1.0"}
    assert "POST /models" not in server.asked


def test_a_version_that_was_left_by_a_command_that_was_killed_is_loaded_anew(place):
    server = place.serve()
    two = build(place.built, "2.0")
    server.versions["one/2.0"] = {"outputs": {"example": [9.0]}}
    assert place.run("deploy", two) == 0
    assert server.asked.index("DELETE /models/one/2.0") < server.asked.index("POST /models")
    assert server.versions["one/2.0"]["outputs"] == {"example": [1.0, 2.0]}


def broken(place, server):
    path = build(place.built, "2.0")
    path.write_bytes(path.read_bytes()[:100])
    return path


def empty(place, server):
    (place.tmp / "one-2.0.mar").write_bytes(b"")
    return place.tmp / "one-2.0.mar"


def a_text(place, server):
    (place.tmp / "one-2.0.mar").write_text("a model")
    return place.tmp / "one-2.0.mar"


def a_folder(place, server):
    (place.tmp / "one-2.0.mar").mkdir()
    return place.tmp / "one-2.0.mar"


def without_manifest(place, server):
    with zipfile.ZipFile(place.tmp / "one-2.0.mar", "w") as contents:
        contents.writestr("handlers/keys.py", "")
    return place.tmp / "one-2.0.mar"


def unstartable(place, server):
    server.fails.add("one/2.0")
    return build(place.built, "2.0")


def mistaken(place, server):
    server.wrong.add("one/2.0")
    return build(place.built, "2.0")


def rebuilt(place, server):
    return build(place.built, "1.0", more=b"# other handlers")


def stored_already(place, server):
    build(place.store, "2.0")
    return build(place.built, "2.0", more=b"# other handlers")


FAILURES = {
    broken: "one-2.0.mar cannot be read as an archive (it is cut off)",
    empty: "one-2.0.mar cannot be read as an archive (it is empty)",
    a_text: "one-2.0.mar cannot be read as an archive (it is no zip file)",
    a_folder: "one-2.0.mar cannot be read as an archive (it is a folder)",
    without_manifest: "one-2.0.mar cannot be read as an archive (There is no item named 'MAR-INF/MANIFEST.json' in the archive)",
    unstartable: "TorchServe did not register one/2.0: Failed to start workers for model (refused_to_start backend: model.onnx is missing",
    mistaken: "one/2.0 answers its example otherwise than recorded: difference 5.0e-01, allowed 1e-03",
    rebuilt: "one/1.0 is served with other contents: build it as another version",
    stored_already: "one-2.0.mar holds one/2.0 with other contents: build it as another version",
    lambda place, server: place.tmp / "missing.mar": "missing.mar cannot be read as an archive (FileNotFoundError",
    lambda place, server: "one:3.0": "has no archive of one:3.0; it has one:1.0",
}


@pytest.mark.parametrize(("make", "message"), FAILURES.items())
def test_what_cannot_be_deployed_changes_nothing_on_any_server_and_says_why(place, capsys, make, message):
    first, second = place.serve("a"), place.serve("b")
    what = make(place, second)
    stored = place.stored()
    assert place.run("deploy", what, servers=("a", "b")) == 2
    assert message in capsys.readouterr().err
    for name, server in (("a", first), ("b", second)):
        assert server.versions.keys() == {"one/1.0"}
        assert server.defaults == {"one": "1.0"}
        assert place.served(name) == ["one-1.0.mar"]
        assert not (place.tmp / name / FILE).exists()
    assert place.stored() == stored


def test_a_version_of_several_workers_is_refused_where_sessions_are_in_memory(place, capsys):
    place.sessions = "memory://"
    server = place.serve()
    assert place.run("deploy", build(place.built, "2.0")) == 2
    assert "memory:// lives inside one worker, and one/2.0 has 2: serve with --workers 1" in capsys.readouterr().err
    assert (server.versions.keys(), place.served()) == ({"one/1.0"}, ["one-1.0.mar"])


@pytest.mark.parametrize("before", ["1.0", "1.5"])
def test_a_server_that_does_not_switch_takes_the_version_back_from_all(place, capsys, before):
    servers = {name: place.serve(name) for name in "abc"}
    if before != "1.0":
        assert place.run("deploy", build(place.built, before), servers=servers) == 0
    servers["b"].refuses.add("one/2.0")
    stored, served, chosen = place.stored(), place.served("a"), [Deployed.read(place.tmp / name) for name in servers]
    assert place.run("deploy", build(place.built, "2.0"), servers=servers) == 2
    said = capsys.readouterr()
    assert f"a: {before} is the default as before" in said.out
    for name, server in servers.items():
        assert "one/2.0" not in server.versions
        assert server.defaults == {"one": before}
        assert place.served(name) == served
    assert (place.stored(), [Deployed.read(place.tmp / name) for name in servers]) == (stored, chosen)
    assert (place.tmp / "a" / FILE).exists() == (before != "1.0")
    servers["b"].refuses.clear()
    assert place.run("deploy", place.built / "one-2.0.mar", servers=servers) == 0


def test_a_server_that_cannot_go_back_is_named_and_stays_as_it_is_and_the_others_go_back(place, capsys):
    servers = {name: place.serve(name) for name in "ab"}
    servers["a"].refuses.add("one/1.0")
    servers["b"].refuses.add("one/2.0")
    assert place.run("deploy", build(place.built, "2.0"), servers=servers) == 2
    said = capsys.readouterr().out.replace(f"{place.tmp}/", "")
    assert "a: one/2.0 could not be taken back (" in said
    assert "): deploy one:1.0 there" in said
    assert (servers["a"].defaults, Deployed.read(place.tmp / "a").defaults) == ({"one": "2.0"}, {"one": ["1.0", "2.0"]})
    assert place.served("a") == ["one-1.0.mar", "one-2.0.mar"]
    assert servers["b"].defaults == {"one": "1.0"}
    assert servers["b"].versions.keys() == {"one/1.0"}
    servers["a"].refuses.clear()
    assert place.run("deploy", "one:1.0", servers=("a",)) == 0
    assert servers["a"].defaults == {"one": "1.0"}


@pytest.mark.parametrize(
    ("described", "message"), [({"ready": False}, "is still starting: try again when it is ready"), ({"pid": 2**22}, "has ended")]
)
def test_nothing_is_deployed_on_a_server_that_is_still_starting_or_has_ended(place, capsys, described, message):
    place.serve(**described)
    assert place.run("deploy", "one:1.0") == 2
    assert message in capsys.readouterr().err


def test_one_command_at_a_time_changes_what_is_deployed(place, capsys):
    place.serve()
    with locked(place.tmp / "run"):
        assert place.run("deploy", "one:1.0") == 2
    assert "another command is changing what is deployed there" in capsys.readouterr().err


def test_a_rollback_goes_back_to_the_default_before_as_long_as_there_is_one(place, capsys):
    server = place.serve()
    for version in ("2.0", "3.0"):
        assert place.run("deploy", build(place.built, version)) == 0
    for version in ("2.0", "1.0"):
        assert place.run("rollback", "one") == 0
        assert server.defaults == {"one": version}
    assert place.run("rollback", "one") == 2
    assert "no version of one that is served was the default before 1.0" in capsys.readouterr().err
    assert place.run("deploy", "one:3.0") == 0
    assert place.run("rollback", "one") == 0
    assert server.defaults == {"one": "1.0"}


def test_a_server_that_does_not_roll_back_is_named_and_the_others_go_back(place, capsys):
    servers = {name: place.serve(name) for name in "abc"}
    assert place.run("deploy", build(place.built, "2.0"), servers=servers) == 0
    servers["b"].refuses.add("one/1.0")
    assert place.run("rollback", "one", servers=servers) == 2
    assert "b: one/1.0 could not be made the default again (" in capsys.readouterr().err.replace(f"{place.tmp}/", "")
    assert [server.defaults["one"] for server in servers.values()] == ["1.0", "2.0", "1.0"]
    assert Deployed.read(place.tmp / "b").defaults == {"one": ["1.0", "2.0"]}
    servers["b"].refuses.clear()
    assert place.run("rollback", "one", servers=("b",)) == 0
    assert servers["b"].defaults == {"one": "1.0"}


def test_a_version_is_retired_when_no_live_session_needs_it(place, capsys):
    server = place.serve()
    assert place.run("deploy", build(place.built, "2.0", digest="cd")) == 0
    place.put_session("live")
    place.put_session("of-the-other", digest="cd")
    place.put_session("of-another-model", model="other")
    place.put_session("expired", expires_at=1.0)
    assert place.run("retire", "one:1.0") == 2
    assert (
        "1 live sessions have the state of one/1.0: close them, move them or wait for them with --drain SECONDS" in capsys.readouterr().err
    )
    assert server.versions.keys() == {"one/1.0", "one/2.0"}
    assert place.run("retire", "one:1.0", "--force") == 0
    assert server.versions.keys() == {"one/2.0"}
    assert (place.served(), place.stored()) == (["one-2.0.mar"], ["one-1.0.mar", "one-2.0.mar"])
    assert Deployed.read(place.tmp / "run") == Deployed({"one": ["2.0"]}, ["one/1.0"])
    assert place.run("rollback", "one") == 2, "there is nothing to go back to"
    assert place.run("deploy", "one:1.0") == 0
    assert Deployed.read(place.tmp / "run") == Deployed({"one": ["2.0", "1.0"]}, [])


def test_a_version_with_the_weights_and_graph_of_another_has_no_sessions_of_its_own(place):
    place.serve()
    assert place.run("deploy", build(place.built, "1.1")) == 0
    place.put_session("live")
    assert place.run("retire", "one:1.0") == 0


def test_retiring_waits_until_the_last_session_has_expired(place, monkeypatch):
    monkeypatch.setattr("host.deploy.POLL", 0.05)
    server = place.serve()
    assert place.run("deploy", build(place.built, "2.0", digest="cd")) == 0
    place.put_session("soon", expires_at=time.time() + 0.5)
    assert place.run("retire", "one:1.0", "--drain", "30") == 0
    assert server.versions.keys() == {"one/2.0"}


def test_retiring_waits_for_sessions_and_gives_up(place, capsys):
    place.serve()
    assert place.run("deploy", build(place.built, "2.0", digest="cd")) == 0
    place.put_session("live")
    assert place.run("retire", "one:1.0", "--drain", "0.1") == 2
    assert "1 live sessions have the state of one/1.0 and cannot be moved (" in capsys.readouterr().err, "these archives hold no model"


@pytest.mark.parametrize(
    ("version", "message"),
    [("one:1.0", "one/1.0 is the default: deploy another version"), ("one:7", "one:7 is not served; served: one:1.0")],
)
def test_the_default_and_what_is_not_served_are_not_retired(place, capsys, version, message):
    place.serve()
    assert place.run("retire", version) == 2
    assert message in capsys.readouterr().err


def test_sessions_that_cannot_be_counted_keep_their_version(place, capsys):
    place.sessions = "memory://"
    place.serve(workers=1)
    assert place.run("deploy", build(place.built, "2.0", digest="cd")) == 0
    assert place.run("retire", "one:1.0") == 2
    assert "its sessions cannot be counted (memory:// lives inside its worker" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_to_is_named_before_anything_starts(place, capsys, monkeypatch):
    server = place.serve()
    monkeypatch.setattr("host.deployment.os.access", lambda path, mode: False)
    assert place.run("deploy", build(place.built, "2.0")) == 2
    assert "cannot be written to: put the archive there, and deploy one:2.0" in capsys.readouterr().err
    assert server.versions.keys() == {"one/1.0"}


def test_what_is_deployed_decides_what_a_start_serves(tmp_path):
    from host.archives import find

    for version in ("1.0", "2.0", "3.0"):
        build(tmp_path, version)
    archives = find(tmp_path)
    assert [archive.version for archive in Deployed().default_versions(archives)] == ["3.0"]
    deployed = Deployed({"one": ["1.0", "2.0", "4.0"]}, ["one/3.0"])
    assert [archive.version for archive in deployed.served(archives)] == ["1.0", "2.0"]
    assert [archive.version for archive in deployed.default_versions(archives)] == ["2.0"], "4.0 is not in the store any more"
    with pytest.raises(HostError, match="every archive of the store is retired"):
        Deployed(retired=["one/1.0", "one/2.0", "one/3.0"]).served(archives)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "defaults": 3, "retired": []}'])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(HostError, match=r"deployed\.json cannot be read"):
        Deployed.read(tmp_path)


def test_the_models_are_listed_with_those_that_are_retired(place, capsys):
    place.serve()
    assert place.run("deploy", build(place.built, "2.0", digest="cd")) == 0
    assert place.run("retire", "one:1.0") == 0
    capsys.readouterr()
    assert place.run("models", "--json") == 0
    [models] = json.loads(capsys.readouterr().out).values()
    assert [(model["version"], model["default"], model["health"]) for model in models] == [("2.0", True, "ok"), ("1.0", "–", "retired")]
    assert place.run("models") == 0
    assert "one    2.0      True     ok       1        0" in capsys.readouterr().out
