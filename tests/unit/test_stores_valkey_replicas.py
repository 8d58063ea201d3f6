"""A primary and its replica: what is acknowledged, and what is read, is on as many replicas as the setting says."""

import signal
import time
from contextlib import closing, contextmanager

import pytest

from handlers.engine.factory import open_store
from handlers.errors import StoreUnavailable
from handlers.settings import Settings
from handlers.stores.valkey import ValkeyStore
from tests.support.store_kinds import put
from tests.support.valkey_server import serving

RIGHTS = (
    "on >sesame ~cellstate:* &cellstate:* +get +set +getrange +hset +hdel +hmget +pexpireat +evalsha +eval +ping +info +select +wait"
    " +publish +scan +pexpiretime +dbsize"
)


@contextmanager
def pair(folder):
    """A primary, and a replica that follows it."""
    for name in ("primary", "replica"):
        (folder / name).mkdir()
    with (
        serving(folder / "primary", repl_diskless_sync_delay="0") as primary,
        serving(folder / "replica", replicaof=f"127.0.0.1 {primary.port}") as replica,
    ):
        deadline = time.monotonic() + 60
        while replica.client().info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield primary, replica


def test_what_is_acknowledged_with_a_replica_survives_the_loss_of_the_primary(tmp_path):
    with pair(tmp_path) as (primary, replica), closing(ValkeyStore(primary.url, replicas=1)) as store:
        changes = [put(b"traffic/%d" % n, b"x" * 2_000) for n in range(200)]
        for n in range(0, 200, 20):
            assert store.commit_many(changes[n : n + 20]) == [True] * 20
        primary.kill()
        replica.client().execute_command("REPLICAOF", "NO", "ONE")
        with closing(ValkeyStore(replica.url)) as promoted:
            assert [entry for _, entry in promoted.scan(b"")] == [change.entry for change in changes]
            assert promoted.check() == []


def test_while_the_replica_lags_nothing_is_acknowledged_and_nothing_is_read(tmp_path):
    """A step that was applied and not acknowledged must not be acknowledged by reading it back: the replica has it no more than before."""
    with pair(tmp_path) as (primary, replica):
        store, other = (ValkeyStore(primary.url, timeout=0.5, replicas=1) for _ in range(2))
        assert store.commit_many([put(b"a", b"1")]) == [True]
        replica.send(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas had it in time; whether it was applied is not known"):
            store.commit_many([put(b"a", b"2", version=2, expected=1)])
        for reader in (store, other):
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas had it in time; nothing was applied"):
                reader.get_many([b"a"])
        with closing(ValkeyStore(primary.url)) as careless:
            assert careless.get_many([b"a"]) == [put(b"a", b"2", version=2).entry]
        replica.send(signal.SIGCONT)
        replica.wait()
        assert other.get_many([b"a"]) == [put(b"a", b"2", version=2).entry]
        assert store.commit_many([put(b"a", b"3", version=3, expected=2)]) == [True]
        store.close(), other.close()


@pytest.mark.parametrize("right", ["wait", "publish"])
def test_an_acl_without_the_right_to_wait_for_replicas_is_found_by_the_probe_and_acknowledges_nothing(tmp_path, right):
    with pair(tmp_path) as (primary, _):
        rights = [rule for rule in RIGHTS.split() if rule != f"+{right}"]
        primary.client().execute_command("ACL", "SETUSER", "limited", *rights)
        with closing(ValkeyStore(f"valkey://limited:sesame@127.0.0.1:{primary.port}", replicas=1)) as store:
            with pytest.raises(StoreUnavailable, match=f"(?i)permissions to run the '{right}' command"):
                store.probe()
            with pytest.raises(StoreUnavailable, match=f"(?i)permissions to run the '{right}' command"):
                store.get_many([b"a"])
            if right == "wait":
                with pytest.raises(StoreUnavailable, match=r"'wait' command.*whether it was applied is not known"):
                    store.commit_many([put(b"a", b"1")])


def test_a_store_without_the_setting_waits_for_no_replica(tmp_path):
    with pair(tmp_path) as (primary, replica), closing(ValkeyStore(primary.url, timeout=0.5)) as store:
        replica.send(signal.SIGSTOP)
        assert store.commit_many([put(b"a", b"1")]) == [True]
        replica.send(signal.SIGCONT)


def test_the_settings_reach_the_store(tmp_path):
    with serving(tmp_path) as lonely:
        began = time.monotonic()
        with (
            closing(open_store(Settings(store=lonely.url, store_timeout=0.2, store_replicas=1))) as store,
            pytest.raises(StoreUnavailable, match="0 of 1 replicas"),
        ):
            store.commit_many([put(b"a", b"1")])
        assert time.monotonic() - began < 2
