"""The operator's command line over stores that a service has filled: what it counts, finds, removes, lists and closes."""

import json
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from msgspec.structs import replace

from handlers.engine.factory import open_store
from handlers.sessions.record import Record
from handlers.sessions.state import State
from handlers.settings import Settings
from handlers.stores.base import Change, Entry
from host import operator
from tests.conftest import answer, ask, make_service, refusal
from tests.support.requests import act, position, step
from tests.support.store_wrappers import Wrapped
from tests.support.valkey_server import free_port, shared_database

AGO = 1_000.0


@pytest.fixture
def url(durable, tmp_path, request):
    """The address of an empty store of each kind that outlives its handle."""
    if durable == "valkey":
        return f"{request.getfixturevalue('valkey').url}/{shared_database(tmp_path)}"
    return f"lmdb://{tmp_path}/db"


@pytest.fixture
def store(url):
    with closing(open_store(Settings(store=url, store_bytes=64 << 20))) as opened:
        yield opened


@pytest.fixture
def service(two, store):
    return make_service(two, store=store, clock=time.time)


class Lent(Wrapped):
    """The service's own store, as LMDB opens a folder once in a process; `read` counts the entries that a command scanned."""

    read = 0

    def scan(self, prefix, after=b""):
        for item in self.inner.scan(prefix, after):
            Lent.read += 1
            yield item

    def close(self):
        pass


@pytest.fixture
def command(url, store, capsys, monkeypatch):
    """Run one verb; its exit code, standard output and standard error."""
    monkeypatch.setattr(operator, "open_store", lambda settings: Lent(store))

    def run(*arguments):
        code = operator.main([url, *arguments])
        return code, *capsys.readouterr()

    return run


def fill(service, two, ids, steps=2):
    x = two.sequence(steps)
    assert {status for status, _ in ask(service, *(step(id, 0, x) for id in ids))} == {200}


def meddle(store, key, change):
    """Put another record, or other bytes, in a session's place."""
    [entry] = store.get_many([key])
    changed = change(Record.decode(entry.value))
    value = changed if isinstance(changed, bytes) else changed.encode()
    assert store.commit_many([Change(key, entry.version, Entry(entry.version + 1, entry.purge_at, value))]) == [True]


def in_the_past(two, store, ids, session_ttl, tombstone_ttl):
    """Sessions that were left some time ago."""
    service = make_service(two, store=store, clock=lambda: time.time() - AGO, session_ttl=session_ttl, tombstone_ttl=tombstone_ttl)
    fill(service, two, ids)


def test_stats_count_each_model_by_phase(two, service, store, command):
    fill(service, two, ["a", "b", "c/d"])
    answer(service, act("b", "close"))
    in_the_past(two, store, ["old"], 10.0, 1e6)
    fill(service, two, ["broken"])
    meddle(store, b"two/broken", lambda record: b"x")
    code, out, _ = command("stats", "--json")
    row, unreadable = sorted(json.loads(out), key=lambda row: row["unreadable"])
    assert code == 0
    assert {name: row[name] for name in operator.COLUMNS} == {"live": 2, "closed": 1, "expired": 1, "past": 0, "unreadable": 0}
    assert (row["model"], row["digest"]) == ("two", two.signature.model_digest[:8])
    assert (unreadable["model"], unreadable["unreadable"], unreadable["oldest"]) == ("two", 1, None)
    assert row["bytes"] == sum(len(k) + len(e.value) for k, e in store.scan(b"") if k != b"two/broken")
    [oldest] = [Record.decode(e.value).created_at for k, e in store.scan(b"two/old")]
    assert row["oldest"] == operator.timestamp(oldest)
    _, table, _ = command("stats")
    head, *lines, last = [line.split() for line in table.splitlines()]
    assert head == ["model", "tenant", "digest", *operator.COLUMNS, "bytes", "oldest"]
    assert len(lines) == 2
    assert last[:8] == ["all", "–", "–", "2", "1", "1", "0", "1"]


def test_sessions_are_listed_and_counted_by_their_tenant(two, service, store, command):
    fill(service, two, ["a", "b"])
    [entry] = store.get_many([b"two/a"])
    store.commit_many([Change(b"two/acme~a", None, entry)])
    assert [line.split("\t")[:3] for line in command("list", "--tenant", "acme")[1].splitlines()] == [["two", "acme", "a"]]
    assert [line.split("\t")[2] for line in command("list", "--tenant", "default")[1].splitlines()] == ["a", "b"]
    assert [(row["tenant"], row["live"]) for row in json.loads(command("stats", "--json")[1])] == [("acme", 1), ("default", 2)]
    assert [(row["tenant"], row["live"]) for row in json.loads(command("stats", "--json", "--tenant", "acme")[1])] == [("acme", 1)]


def test_stats_of_an_empty_store_are_zeros(command):
    code, out, _ = command("stats")
    assert (code, out.splitlines()[-1].split()) == (0, ["all", "–", "–", "0", "0", "0", "0", "0", "0", "–"])
    assert json.loads(command("stats", "--json")[1]) == []


def test_a_sound_store_is_said_to_be_sound(two, service, command):
    fill(service, two, [f"s{n}" for n in range(5)])
    answer(service, act("s0", "close"))
    answer(service, act("s1", "fork", to="t"))
    assert command("check") == (0, "sound: 6 sessions\n", "")


def longer(record):
    return replace(record, state=State(np.zeros(99, np.float32), record.state.position, record.state.digest))


def infinite(record):
    return replace(record, state=State(record.state.values * np.float32(np.inf), record.state.position, record.state.digest))


UNSOUND = {
    "not a record": (lambda record: b"hello", "it does not begin as a record does"),
    "a step ahead of its position": (lambda record: replace(record, last_step=3), "last step 3 lies behind its position 2"),
    "a state of another size": (longer, "its state has 99 values, where"),
    "a state that is not finite": (infinite, "its state is not finite"),
    "closed with its state": (lambda record: replace(record, closed=True), "where 0 belong"),
    "forgotten while it is live": (lambda record: replace(record, expires_at=9e9), "before it expires"),
}


@pytest.mark.parametrize(("change", "said"), UNSOUND.values(), ids=UNSOUND.keys())
def test_check_names_what_cannot_be(two, service, store, command, change, said):
    fill(service, two, ["a", "b", "c"])
    meddle(store, b"two/b", change)
    code, out, _ = command("check")
    assert code == 1
    [line] = out.splitlines()
    assert line.startswith("two/b: ")
    assert said in line


def test_check_passes_on_what_the_store_itself_finds(two, service, store, command):
    fill(service, two, ["a"])
    store.commit_many([Change(b"strange", None, Entry(2**63, 4e9, b""))])
    code, out, _ = command("check")
    assert code == 1
    assert "version 9223372036854775808 is out of range" in out
    assert "strange: its key names no model" in out


def test_sweep_removes_what_is_past_its_time_and_says_how_much(two, service, store, command, url):
    in_the_past(two, store, [f"old{n}" for n in range(30)], 10.0, 10.0)
    in_the_past(two, store, ["expired"], 10.0, 1e6)
    fill(service, two, ["live"])
    code, out, _ = command("sweep")
    assert code == 0
    assert out == ("0 removed; Valkey itself removes what is past its time\n" if url.startswith("valkey") else "30 removed\n")
    assert [key for key, _ in store.scan(b"")] == [b"two/expired", b"two/live"]


def test_sweep_comes_to_the_end_of_a_store_of_many(two, store, url, command, monkeypatch):
    monkeypatch.setattr(operator, "SLICE", 7)
    in_the_past(two, store, [f"old{n:02d}" for n in range(50)], 10.0, 10.0)
    command("sweep")
    assert list(store.scan(b"")) == []


def test_list_gives_one_line_a_session_page_by_page(two, service, store, command):
    fill(service, two, ["a", "b", "c/1", "c/2", "d"], steps=3)
    answer(service, act("d", "close"))
    meddle(store, b"two/b", lambda record: b"x")
    lines, after, read_before = [], "", Lent.read
    while True:
        code, out, err = command("list", "--limit", "2", "--after", after)
        assert code == 0
        lines += [line.split("\t") for line in out.splitlines()]
        if not err:
            break
        after = err.strip().removeprefix("more: --after ")
    assert Lent.read - read_before <= 5 + 2, "a page reads its own entries and one more"
    assert [line[:3] for line in lines] == [["two", "default", id] for id in ("a", "b", "c/1", "c/2", "d")]
    assert [line[3] for line in lines] == ["3", "–", "3", "3", "3"]
    assert lines[0][4] == answer(service, act("a", "describe"))["session"]["expires_at"]
    assert "cannot be read" in lines[1][4]
    assert lines[4][4].endswith("Z closed")
    assert [line.split("\t")[2] for line in command("list", "--prefix", "two/c")[1].splitlines()] == ["c/1", "c/2"]
    assert command("list", "--prefix", "nobody/") == (0, "", "")


def test_close_shows_what_it_would_close_and_closes_only_when_told_to(two, service, command):
    fill(service, two, ["a1", "a2", "b"])
    answer(service, act("a2", "close"))
    assert command("close", "--prefix", "two/a") == (0, "two/a1\n1 would be closed; --yes closes them\n", "")
    assert position(service, "a1") == 2
    assert command("close", "--prefix", "two/a", "--yes") == (0, "1 closed\n", "")
    assert [position(service, id) for id in ("a1", "a2", "b")] == ["session_closed", "session_closed", 2]
    assert command("close", "--prefix", "two/a", "--yes") == (0, "0 closed\n", "")
    assert command("check")[0] == 0


def test_a_session_closed_by_its_operator_is_as_one_closed_by_its_client(two, service, store, command):
    x = two.sequence(2)
    fill(service, two, ["mine", "theirs"])
    answer(service, act("theirs", "close"))
    command("close", "--prefix", "two/mine", "--yes")
    mine, theirs = (Record.decode(entry.value) for entry in store.get_many([b"two/mine", b"two/theirs"]))
    assert abs(mine.expires_at - theirs.expires_at) < 60
    assert replace(mine, state=theirs.state, created_at=0, expires_at=0) == replace(theirs, created_at=0, expires_at=0)
    assert (mine.state.values.size, mine.state.position, mine.state.digest) == (0, theirs.state.position, theirs.state.digest)
    for id in ("mine", "theirs"):
        assert refusal(service, step(id, 2, x))[1] == "session_closed"
        assert answer(service, step(id, 0, x))["session"]["replayed"], "its last step is still answered again"


def test_a_session_that_a_server_advances_meanwhile_is_closed_where_it_is_then(two, service, store, command, monkeypatch):
    x = two.sequence(3)
    fill(service, two, ["a"])
    commit, rivals = type(store).commit_many, [lambda: answer(service, step("a", 2, x[2:]))]

    def overtaken(self, changes):
        if rivals:
            rivals.pop()()
        return commit(self, changes)

    monkeypatch.setattr(type(store), "commit_many", overtaken)
    assert command("close", "--prefix", "two/a", "--yes") == (0, "1 closed\n", "")
    assert Record.decode(store.get_many([b"two/a"])[0].value).state.position == 3


def test_a_session_that_cannot_be_read_is_not_closed(two, service, store, command):
    fill(service, two, ["a", "b"])
    meddle(store, b"two/a", lambda record: b"x")
    code, out, _ = command("close", "--prefix", "two/", "--yes")
    assert (code, out) == (1, "two/a: cannot be read, and stays\n1 closed\n")
    assert store.get_many([b"two/a"])[0].value == b"x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["close", "--prefix", "tw", "--yes"], "name the model and a slash"),
        (["close", "--yes"], "--prefix"),
        (["list", "--limit", "-1"], "expected a number from 1 up, got '-1'"),
        (["wipe"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_command_that_is_none_does_nothing(two, service, command, capsys, arguments, said):
    fill(service, two, ["a"])
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert position(service, "a") == 2


@pytest.mark.parametrize("verb", ["stats", "check", "sweep", "list"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("lmdb://{folder}/nowhere", "holds no store"),
        ("memory://", "cannot be seen from outside"),
        ("redis://here", "expected memory://, lmdb:///folder or valkey://"),
        ("sessions", "expected"),
        ("valkey://:swordfish@127.0.0.1:{port}", "refused"),
        ("valkey://:swordfish@", "expected valkey://"),
    ],
)
def test_a_store_that_cannot_be_opened_is_exit_2_and_nothing_is_made(tmp_path, capsys, place, said, verb):
    code = operator.main([place.format(folder=tmp_path, port=free_port()), verb])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err
    assert "swordfish" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_goes_away_meanwhile_is_exit_2(two, service, store, command, monkeypatch):
    fill(service, two, ["a"])
    monkeypatch.setattr(type(store), "scan", lambda self, *_: self.close() or iter(self.get_many([b"x"])))
    code, _, err = command("list")
    assert code == 2
    assert err.startswith("host.sessions: store ")


def test_it_runs_as_a_command_beside_a_service(two, service, url):
    fill(service, two, ["a"])
    done = subprocess.run([sys.executable, "-m", "host.sessions", url, "check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "sound: 1 sessions\n", "")
