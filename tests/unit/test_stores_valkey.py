"""What the Valkey store promises beyond the contract: its URL, its clock, its slots, and what it says when the server refuses."""

import re
import secrets
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.clock import ClockGuard
from handlers.engine.factory import open_store
from handlers.errors import ConfigurationError, StoreUnavailable
from handlers.settings import Settings
from handlers.stores.base import Entry, Parts
from handlers.stores.valkey import ValkeyStore
from tests.support.store_kinds import put
from tests.support.valkey_server import free_port, serving, shared_database, shared_store


@pytest.fixture
def store(valkey, tmp_path):
    with closing(shared_store(tmp_path)) as opened:
        yield opened


@pytest.fixture
def own(tmp_path):
    """A server whose settings a test may change."""
    with serving(tmp_path) as server:
        yield server


SETTINGS = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
[(SERVICE, OPERATOR)] = re.findall(r"an ACL of at least \| `(.+?)`, and for `python -m host\.sessions` `(.+?)` \|", SETTINGS)


def with_rights(valkey, tmp_path, rights):
    """The store that belongs to a folder, opened by a user who may do this and no more."""
    user = f"u{secrets.token_hex(4)}"
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", user, "on", ">sesame", *rights)
    return ValkeyStore(f"valkey://{user}:sesame@127.0.0.1:{valkey.port}/{shared_database(tmp_path)}")


def test_the_documented_rights_are_enough_for_the_service_and_for_the_operator(valkey, tmp_path):
    with closing(with_rights(valkey, tmp_path, SERVICE.split())) as store:
        store.probe()
        assert store.commit_many([put(b"a", b"1")]) == [True]
        assert store.get_many([b"a"]) == [put(b"a", b"1").entry]
        assert store.sweep(0.0, 10).ends_round
    with closing(with_rights(valkey, tmp_path, (SERVICE + " " + OPERATOR).split())) as store:
        assert len(list(store.scan(b""))) == 1
        assert store.check() == []


NEEDED = ["get", "set", "getrange", "hset", "hdel", "hmget", "pexpireat", "eval", "ping", "info", "select", "scan", "pexpiretime", "dbsize"]


@pytest.mark.parametrize("right", [f"+{command}" for command in NEEDED])
def test_each_right_that_is_wanting_is_found_at_the_start(valkey, tmp_path, right):
    assert right in SERVICE.split()
    with pytest.raises(StoreUnavailable), closing(with_rights(valkey, tmp_path, [r for r in SERVICE.split() if r != right])) as store:
        store.probe()


MALFORMED = {
    "no host": "valkey://",
    "no number for a port": "valkey://here:swordfish",
    "a port out of range": "valkey://here:99999",
    "no number for a database": "valkey://here:6379/swordfish",
    "a slash in the password": "valkey://user:sword/fish@here:6379/0",
    "an option that is none": "valkey://here:6379/0?password=swordfish",
    "an option of TLS without TLS": "valkey://here:6379/0?ssl_ca_certs=swordfish",
    "an unknown option of TLS": "valkeys://here:6379/0?ssl_swordfish=1",
    "a value that is none": "valkeys://here:6379/0?ssl_cert_reqs=swordfish",
}


@pytest.mark.parametrize("url", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_url_refuses_to_start_and_is_not_repeated(url):
    with pytest.raises(ConfigurationError, match="store: expected ") as caught:
        open_store(Settings(store=url))
    assert "swordfish" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkey://user:swordf@is/h:@here:6379/0", "valkey://user:***@here:6379/0"),
        ("valkeys://:swordf@here/0?ssl_password=swordf", "valkeys://:***@here/0?ssl_password=***"),
        ("valkey://here:6379/0", "valkey://here:6379/0"),
        ("lmdb:///data/a:b@c", "lmdb:///data/a:b@c"),
    ],
)
def test_a_password_is_masked_wherever_the_url_is_shown(url, shown):
    assert Settings(store=url).effective()["store"] == shown
    with pytest.raises(ConfigurationError) as caught:
        open_store(Settings(store="x" + url))
    assert "swordf" not in caught.value.message


def test_a_password_opens_the_store_and_another_does_not(tmp_path):
    with serving(tmp_path, requirepass="sword@fish") as server:
        address = f"127.0.0.1:{server.port}/3"
        with closing(open_store(Settings(store=f"valkey://:sword%40fish@{address}"))) as store:
            assert store.commit_many([put(b"a", b"1")]) == [True]
        for wrong in (f"valkey://:swordfish@{address}", f"valkey://{address}"):
            with pytest.raises(StoreUnavailable, match=f"store valkey://{address}: ") as caught:
                open_store(Settings(store=wrong))
            assert "fish" not in caught.value.message


def test_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(StoreUnavailable, match=r"refused.*nothing was applied"):
        ValkeyStore(f"valkey://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(("ahead", "said"), [(400.0, "clock is 400 s behind"), (-172_800.0, "clock is 172800 s ahead of")])
def test_a_server_whose_clock_is_wrong_is_unavailable(own, ahead, said):
    """The server deletes sessions by its own clock: with one that is ahead it would delete them as they are written."""
    with pytest.raises(StoreUnavailable, match=f"{said} .*set both right; nothing was applied"):
        ValkeyStore(own.url, clock=lambda: time.time() + ahead)
    with closing(ValkeyStore(own.url, clock=lambda: time.time() + 200.0)) as store:
        assert store.commit_many([put(b"a", b"1")]) == [True]


@pytest.mark.parametrize("wrong", [-172_800.0, 172_800.0], ids=["behind", "ahead"])
def test_a_worker_that_started_at_a_wrong_time_takes_the_servers_word_when_its_clock_is_set_right(own, wrong):
    """It would write sessions that expired days ago, which the server deletes, or take live sessions for expired ones."""
    apart = [wrong]
    guard = ClockGuard(3_600.0, wall=lambda: time.time() + apart[0])
    settings = Settings(store=own.url)
    with pytest.raises(StoreUnavailable, match="set both right"):
        open_store(settings, guard)
    apart[0] = 0.0
    with closing(open_store(settings, guard)):
        assert guard() == pytest.approx(time.time(), abs=60)
    apart[0] = wrong
    with closing(open_store(settings, guard)) as store:
        assert store.commit_many([put(b"a", b"1")]) == [True], "the time that is believed is right"


def test_a_sweep_tells_what_the_servers_clock_says(own):
    told = []
    with closing(ValkeyStore(own.url, witness=told.append)) as store:
        told.clear()
        store.sweep(0.0, 10)
    assert told == pytest.approx([time.time()], abs=60)


def test_a_server_that_may_drop_live_sessions_is_refused(tmp_path):
    with serving(tmp_path, maxmemory="100mb", maxmemory_policy="allkeys-lru") as server:
        with pytest.raises(ConfigurationError, match="maxmemory-policy allkeys-lru may drop live sessions: set it to noeviction"):
            ValkeyStore(server.url)
        server.client().config_set("maxmemory", "0")  # no bound, nothing dropped
        ValkeyStore(server.url).close()


def test_databases_of_one_server_are_stores_of_their_own(own):
    one, other = (ValkeyStore(f"{own.url}/{n}") for n in (0, 1))
    assert one.commit_many([put(b"a", b"1")]) == [True]
    assert other.get_many([b"a"]) == [None]
    one.close(), other.close()


def test_the_keys_of_others_in_the_same_database_are_left_alone(own):
    own.client().mset({"a": "theirs", "cellstat": "theirs"})
    with closing(ValkeyStore(own.url)) as store:
        store.commit_many([put(b"a", b"ours")])
        assert [key for key, _ in store.scan(b"")] == [b"a"]
        assert store.check() == []
    assert own.client().get("a") == b"theirs"


def test_the_server_forgets_the_parts_of_an_entry_with_it_and_every_change_gives_both_more_time(store):
    now = time.time()
    parts = Parts([(1, b"1")], [])
    assert store.commit_many(
        [replace(put(b"a", b"1", purge_at=now + 0.5), parts=parts), replace(put(b"b", b"1", purge_at=now + 0.5), parts=parts)]
    )
    assert store.commit_many([replace(put(b"b", b"2", 2, 1, purge_at=now + 3600), parts=Parts([], []))]) == [True]
    while store.get_many([b"a"]) != [None]:
        assert time.time() < now + 10
    assert (store.get_parts(b"a", [1]), store.get_parts(b"b", [1])) == ([None], [b"1"])


def test_the_server_forgets_an_entry_after_its_time_and_not_before(store):
    purge_at = time.time() + 0.3
    assert store.commit_many([put(b"a", b"", version=7, purge_at=purge_at)]) == [True]
    deadline = time.monotonic() + 30
    while store.get_many([b"a"]) != [None]:
        assert time.monotonic() < deadline
    assert time.time() >= purge_at
    assert store.commit_many([put(b"a", b"late", version=8, expected=7)]) == [False]
    assert store.commit_many([put(b"a", b"new")]) == [True]


@pytest.mark.parametrize("purge_at", [0.0, -5.0, 1.0])
def test_an_entry_past_its_time_is_gone_at_once(store, purge_at):
    assert store.commit_many([put(b"a", b"", purge_at=purge_at)]) == [True]
    assert store.get_many([b"a"]) == [None]


@pytest.mark.parametrize("purge_at", [1e18, float("inf")])
def test_a_time_beyond_the_servers_is_no_error(store, purge_at):
    assert store.commit_many([put(b"a", b"1", purge_at=purge_at)]) == [True]
    assert store.get_many([b"a"]) == [Entry(1, purge_at, b"1")]
    assert store.check() == []


def test_a_sweep_leaves_it_to_the_server(store):
    store.commit_many([put(b"a", b"")])
    assert not store.sweep(9e9, 100).removed
    assert len(list(store.scan(b""))) == 1


def test_keys_of_one_batch_may_lie_in_different_slots_of_a_cluster(tmp_path):
    bus = {"cluster_port": str(free_port())}  # by default the port plus 10,000, where outgoing connections have theirs
    with serving(tmp_path, cluster_enabled="yes", databases="1", **bus) as server, server.client() as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 30
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
        with closing(ValkeyStore(server.url)) as store:
            changes = [put(b"traffic/%d" % n, b"%d" % n) for n in range(64)]
            assert store.commit_many(changes) == [True] * 64
            assert store.get_many([change.key for change in changes]) == [change.entry for change in changes]
            assert len(list(store.scan(b"traffic/"))) == 64
            assert store.check() == []


@pytest.mark.parametrize("prefix", [b"a*", b"a?", b"[ab]", b"a\\", b"a^", b"*", b"a-z"])
def test_a_prefix_is_no_pattern(store, prefix):
    store.commit_many([put(key, b"") for key in (b"a", b"ab", b"ax", b"a-", prefix + b"/1")])
    assert [key for key, _ in store.scan(prefix)] == [prefix + b"/1"]


def test_a_scan_of_many_gives_each_once_and_in_order(store):
    keys = [b"traffic/%04d" % n for n in range(2_500)]
    store.commit_many([put(key, key) for key in keys])
    assert [(key, entry.value) for key, entry in store.scan(b"traffic/")] == [(key, key) for key in keys]


def test_a_server_that_lost_its_scripts_is_given_them_again(store, valkey):
    store.commit_many([put(b"a", b"1")])
    valkey.client().script_flush()
    assert store.commit_many([put(b"a", b"2", version=2, expected=1), put(b"b", b"1", expected=5), put(b"c", b"1")]) == [True, False, True]
    assert [entry.value for _, entry in store.scan(b"")] == [b"2", b"1"]


def test_a_batch_is_one_round_trip(store, monkeypatch):
    keys = [b"%d" % n for n in range(64)]
    store.commit_many([put(keys[0], b"")])
    sent = []
    connection = store._pool._available_connections[-1]
    send = connection.send_packed_command
    monkeypatch.setattr(connection, "send_packed_command", lambda *args, **more: sent.append(args) or send(*args, **more))
    store.get_many(keys)
    assert store.commit_many([put(key, b"x" * 2_000) for key in keys]) == [False] + [True] * 63
    assert len(sent) == 2


REFUSALS = {
    "out of memory": (("CONFIG SET", "maxmemory", "1"), ("CONFIG SET", "maxmemory", "0"), "maxmemory"),
    "too few replicas": (("CONFIG SET", "min-replicas-to-write", "1"), ("CONFIG SET", "min-replicas-to-write", "0"), "good replicas"),
    "a replica now": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only replica"),
}


@pytest.mark.parametrize(("spoil", "mend", "said"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_the_server_refuses_is_unavailable_and_not_applied(own, spoil, mend, said):
    with closing(ValkeyStore(own.url)) as store:
        store.commit_many([put(b"a", b"1")])
        own.client().execute_command(*spoil)
        with pytest.raises(StoreUnavailable, match=f"{said}.*nothing was applied"):
            store.commit_many([put(b"a", b"2", version=2, expected=1), put(b"b", b"1")])
        own.client().execute_command(*mend)
        assert store.get_many([b"a", b"b"]) == [put(b"a", b"1").entry, None]
        assert store.commit_many([put(b"a", b"2", version=2, expected=1)]) == [True]


def test_a_batch_that_the_server_refuses_in_part_is_not_said_to_be_unapplied(own):
    with closing(ValkeyStore(own.url)) as store:
        own.client().rpush("cellstate:b", "a list of somebody else's")
        with pytest.raises(StoreUnavailable, match=r"wrong kind of value.*whether it was applied is not known"):
            store.commit_many([put(b"a", b"1"), put(b"b", b"1"), put(b"c", b"1")])
        assert store.get_many([b"a", b"c"]) == [put(b"a", b"1").entry] * 2


def test_a_replica_is_not_read_from(own):
    """What it says may be old, and an old position would be told to a client as the session's."""
    with closing(ValkeyStore(own.url)) as store:
        own.client().execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable):
            store.commit_many([put(b"a", b"1")])  # from here on it knows
        with pytest.raises(StoreUnavailable, match="it is a replica"):
            store.get_many([b"a"])


def test_a_server_that_is_still_loading_is_unavailable(tmp_path):
    with serving(tmp_path) as server, closing(ValkeyStore(server.url)) as store:
        store.commit_many([put(b"%04d" % n, b"") for n in range(1_000)])
        server.client().save()
        server.kill()
        server.options |= {"key_load_delay": "500", "loading_process_events_interval_bytes": "1024"}  # half a second, many pauses
        server.start(ready=False)
        with pytest.raises(StoreUnavailable, match="loading the dataset in memory; nothing was applied"):
            store.commit_many([put(b"a", b"1")])
        server.wait()
        assert store.get_many([b"a", b"0000", b"0999"]) == [None, put(b"", b"").entry, put(b"", b"").entry]


FOREIGN = {
    "no entry": (("SET", "cellstate:a", "short"), "5 bytes are no entry"),
    "version 0": (("SETRANGE", "cellstate:a", "0", b"\0" * 8), "version 0 is out of range"),
    "one that never goes": (("PERSIST", "cellstate:a"), "forgets it at -1 ms"),
    "one that goes early": (("PEXPIREAT", "cellstate:a", "3000000000000"), "forgets it at 3000000000000 ms, not at 4000000000.0 s"),
}


@pytest.mark.parametrize(("meddle", "said"), FOREIGN.values(), ids=FOREIGN.keys())
def test_check_names_what_somebody_else_has_changed(own, meddle, said):
    with closing(ValkeyStore(own.url)) as store:
        store.commit_many([put(b"a", b"1"), put(b"b", b"1")])
        own.client().execute_command(*meddle)
        [problem] = store.check()
        assert problem.startswith("b'a': ")
        assert said in problem
        assert store.get_many([b"b"]) == [put(b"b", b"1").entry]
