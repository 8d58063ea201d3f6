"""`retire --drain` moves the live sessions of a version to the default one: as their next steps would, and without those steps."""

import shutil
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from handlers.engine.factory import open_store
from handlers.errors import StoreUnavailable
from handlers.inference import batching
from handlers.inference.backends.base import BackendError
from handlers.sessions.record import Record
from handlers.settings import Settings
from handlers.stores.base import Change, Entry
from handlers.stores.lmdb import EmbeddedStore
from host import moving
from host.__main__ import main
from host.archives import read
from host.ports import HostError
from tests.conftest import answer, assert_close, make_service, refusal
from tests.support import eager
from tests.support.fake_torchserve import running
from tests.support.requests import act, step

TENANT = "b"


@pytest.fixture
def url(tmp_path):
    url = f"lmdb://{tmp_path / 'sessions'}"
    open_store(Settings(store=url)).close()
    return url


def served(model, url, *requests, **settings):
    """What a server of that version answers."""
    with closing(open_store(Settings(store=url))) as store:
        service = make_service(model, store=store, clock=time.time, **settings)
        return [answer(service, request) for request in requests]


def refused(model, url, request):
    with closing(open_store(Settings(store=url))) as store:
        return refusal(make_service(model, store=store, clock=time.time), request)[:2]


def stream(model, url, id, x, **settings):
    return served(model, url, *(step(id, at, x[at : at + 7]) for at in range(0, len(x), 7)), **settings)


def fleet(tmp_path, stack, url, names, *archives):
    """Servers that serve the archives, of which the last is the default."""
    store, servers = tmp_path / "store", {}
    store.mkdir()
    for name in names:
        (tmp_path / name / "models").mkdir(parents=True)
        for archive in archives:
            shutil.copy(archive, tmp_path / name / "models")
            shutil.copy(archive, store)
        servers[name] = stack.enter_context(running(tmp_path / name, store, url))
        servers[name].defaults["meter"] = read(archives[-1]).version
    return servers


def retire(tmp_path, names, *options):
    return main(["retire", "meter:1.0", *options, *(part for name in names for part in ("--server", str(tmp_path / name)))])


def test_a_retired_version_leaves_its_sessions_to_the_default_on_every_server(old, new, url, tmp_path, capsys):
    streams = {f"s{i}": old.sequence(5 + 17 * i, seed=i) for i in range(8)}
    for id, x in streams.items():
        stream(old, url, id, x)
    with ExitStack() as stack:
        servers = fleet(tmp_path, stack, url, ("a", "b"), old.built.archive, new.built.archive)
        assert retire(tmp_path, servers) == 2, "without --drain it is refused"
        assert retire(tmp_path, servers, "--drain", "5") == 0
        assert [server.versions.keys() for server in servers.values()] == [{"meter/2.0"}] * 2
    lines = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines()
    assert lines == ["a: 8 sessions of meter/1.0 were moved to meter/2.0", "a: meter/1.0 is retired", "b: meter/1.0 is retired"]
    for id, x in streams.items():
        [reply] = served(new, url, step(id, len(x), x[:1]))
        assert "rewarmed" not in reply["session"]
        assert_close(reply["prediction"], eager.run(new.model, [*x, x[0]]).prediction, "the stream under the new version")


def test_a_session_that_was_moved_answers_its_last_step_again_and_can_be_moved_on(old, new, url):
    x = old.sequence(50)
    *_, last = stream(old, url, "a", x, keep_versions=3)
    assert moving.move(url, read(old.built.archive), read(new.built.archive)) == (1, 0)
    [again, forecast] = served(new, url, step("a", 49, x[49:]), step("a", 50, x[:1], horizon=3, commit=False), keep_versions=3)
    assert (again["session"]["replayed"], again["prediction"]) == (True, last["prediction"])
    assert_close(forecast["forecast"], eager.rollout(new.model, [*x, x[0]], 3, None), "the forecast")
    with closing(open_store(Settings(store=url))) as store:
        [(key, entry)] = store.scan(b"")
        assert Record.decode(entry.value).kept == ()
        assert store.get_parts(key, range(50)) == [None] * 50, "earlier states were of the other model"
        assert store.check() == []
        [status, code, _] = refusal(make_service(old, store=store, clock=time.time), step("a", 50, x[:1]))
        assert (status, code) == (409, "model_changed")
    [moved] = served(new, url, act("a", "describe"))
    assert moved["session"]["rewarm"] == "37 of 37 inputs"


def test_the_last_answer_of_a_moved_session_is_still_its_model_s(old, new, url):
    x, asked = old.sequence(50), {"return": ["prediction", "state"]}
    stream(old, url, "a", x)
    [last] = served(old, url, step("a", 50, x[:1], **asked))
    for source, target in ((old, new), (new, old)):
        assert moving.move(url, read(source.built.archive), read(target.built.archive)) == (1, 0)
        [again] = served(target, url, step("a", 50, x[:1], **asked))
        assert again.pop("session")["replayed"] is True
        assert again == {name: value for name, value in last.items() if name != "session"}
    assert refused(new, url, {"inputs": x[:1].tolist(), "state": again["state"]}) == (409, "model_changed")


def test_what_cannot_be_moved_is_waited_for(old, new, url, tmp_path, capsys):
    stream(old, url, "before", old.sequence(50), rewarm_steps=0)
    stream(old, url, "kept", old.sequence(50))
    with ExitStack() as stack:
        servers = fleet(tmp_path, stack, url, ("a",), old.built.archive, new.built.archive)
        assert retire(tmp_path, servers, "--drain", "0.1") == 2
        said = capsys.readouterr()
        assert "1 sessions of meter/1.0 were moved to meter/2.0" in said.out
        assert "1 live sessions have the state of meter/1.0, with too few inputs for meter/2.0: " in said.err
        assert servers["a"].versions.keys() == {"meter/1.0", "meter/2.0"}
        served(old, url, act("before", "close"))
        assert retire(tmp_path, servers, "--drain", "0.1") == 0


def test_after_a_rollback_the_sessions_are_moved_back(old, new, url, tmp_path, capsys):
    """Though a lower version takes none by itself. One that is stepped at the version meanwhile is moved when that is gone."""
    streams = {id: old.sequence(50, seed=i) for i, id in enumerate("ab")}
    for id, x in streams.items():
        stream(new, url, id, x)
    [(status, code)] = {refused(old, url, step(id, 50, x[:1])) for id, x in streams.items()}
    assert (status, code) == (409, "model_changed")
    with ExitStack() as stack:
        servers = fleet(tmp_path, stack, url, ("run",), new.built.archive, old.built.archive)
        unregister = servers["run"].answer

        def stepped_before(method, target):
            if method == "DELETE":
                assert served(new, url, step("b", 50, streams["b"][:1]))[0]["session"]["rewarmed"] is True
            return unregister(method, target)

        servers["run"].answer = stepped_before
        assert main(["retire", "meter:2.0", "--drain", "5", "--server", str(tmp_path / "run")]) == 0
        assert servers["run"].versions.keys() == {"meter/1.0"}
    said = capsys.readouterr().out
    assert "2 sessions of meter/2.0 were moved to meter/1.0" in said
    assert "1 sessions of meter/2.0 were moved to meter/1.0" in said
    for id, x in (("a", streams["a"]), ("b", [*streams["b"], streams["b"][0]])):
        [reply] = served(old, url, step(id, len(x), streams[id][:1]))
        assert_close(reply["prediction"], eager.run(old.model, [*x, streams[id][0]]).prediction, "the stream under the version of before")


def test_sessions_of_every_tenant_are_moved(old, new, url):
    x = old.sequence(20)
    stream(old, url, "a", x)
    with closing(open_store(Settings(store=url))) as store:
        [(key, entry)] = store.scan(b"")
        other = key.replace(b"meter/a", b"meter/" + TENANT.encode() + b":a")
        assert store.commit_many([Change(other, None, Entry(1, entry.purge_at, entry.value))]) == [True]
    assert moving.move(url, read(old.built.archive), read(new.built.archive)) == (2, 0)


def test_a_session_that_a_server_changes_meanwhile_is_left_for_the_next_look(old, new, url, monkeypatch):
    x = old.sequence(51)
    stream(old, url, "a", x[:50])
    commit = EmbeddedStore.commit_many

    def overtaken(store, changes):
        monkeypatch.setattr(EmbeddedStore, "commit_many", commit)
        answer(make_service(old, store=store, clock=time.time), step("a", 50, x[50:]))
        return commit(store, changes)

    monkeypatch.setattr(EmbeddedStore, "commit_many", overtaken)
    archives = read(old.built.archive), read(new.built.archive)
    assert [moving.move(url, *archives) for _ in range(2)] == [(0, 0), (1, 0)]
    [reply] = served(new, url, step("a", 51, x[:1]))
    assert_close(reply["prediction"], eager.run(new.model, [*x, x[0]]).prediction, "no step was lost")


def test_why_nothing_can_be_moved_is_said(old, new, url, tmp_path, monkeypatch):
    stream(old, url, "a", old.sequence(50))
    archives = read(old.built.archive), read(new.built.archive)
    with pytest.raises(HostError, match="holds no store"):
        moving.move(f"lmdb://{tmp_path}/nowhere", *archives)
    with pytest.raises(HostError, match=r"gone\.mar"):
        moving.move(url, archives[0], replace(archives[1], path=tmp_path / "gone.mar"))
    for error in (StoreUnavailable("it does not answer"), BackendError("the model failed")):
        with monkeypatch.context() as patch:
            patch.setattr(moving, "moved", lambda *_, error=error: (_ for _ in ()).throw(error))
            with pytest.raises(HostError, match=str(error)):
                moving.move(url, *archives)
    monkeypatch.setattr(moving, "configuration", lambda _: {"cellstate": {"rewarm_steps": 0}})
    with pytest.raises(HostError, match=r"meter/2\.0 rebuilds no state: rewarm_steps is 0"):
        moving.move(url, *archives)


def test_a_session_whose_rebuilt_state_is_no_number_stays(old, new, url, monkeypatch):
    stream(old, url, "a", old.sequence(50))
    run = batching.run

    def broken(*given):
        found = run(*given)
        return replace(found, finite=[False] * len(found.finite))

    monkeypatch.setattr(batching, "run", broken)
    assert moving.move(url, read(old.built.archive), read(new.built.archive)) == (0, 1)
