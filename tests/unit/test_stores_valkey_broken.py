"""Connections that break, servers that hang or are killed: what was acknowledged stays, what is not known is said to be so."""

import multiprocessing
import shutil
import signal
import ssl
import subprocess
import threading
import time
from contextlib import closing

import pytest

from handlers.errors import StoreUnavailable
from handlers.stores.base import Change, Entry
from handlers.stores.valkey import ValkeyStore
from tests.support.proxy import cutting
from tests.support.store_kinds import FAR, put
from tests.support.valkey_server import ALWAYS, serving

SPAWN = multiprocessing.get_context("spawn")
PROCESSES, KILLS, BETWEEN, KEYS = 4, 4, 100, [b"traffic/%d" % n for n in range(3)]


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as own:
        yield own


@pytest.mark.parametrize(("how", "applied"), [("nothing", 0), ("half", 1), ("all", 2)])
def test_a_commit_whose_connection_breaks_is_never_said_to_be_applied_or_not(server, how, applied):
    with cutting(server.port) as proxy, closing(ValkeyStore(f"valkey://127.0.0.1:{proxy.port}")) as store:
        store.commit_many([put(b"before", b"1")])  # the server has the script now
        proxy.cut(b"EVALSHA", how)
        with pytest.raises(StoreUnavailable, match="whether it was applied is not known: send the same step again"):
            store.commit_many([put(b"a", b"1"), put(b"b", b"1")])
        assert proxy.cuts == 1
        assert [entry is not None for entry in store.get_many([b"a", b"b"])] == [applied > 0, applied > 1]
        assert store.commit_many([put(b"a", b"1"), put(b"b", b"1")]) == [applied < 1, applied < 2], "the next call makes a new connection"


@pytest.mark.parametrize("how", ["nothing", "half", "all"])
def test_a_read_whose_connection_breaks_applied_nothing(server, how):
    with cutting(server.port) as proxy, closing(ValkeyStore(f"valkey://127.0.0.1:{proxy.port}")) as store:
        store.commit_many([put(b"a", b"1")])
        proxy.cut(b"GET", how)
        with pytest.raises(StoreUnavailable, match="nothing was applied"):
            store.get_many([b"a", b"b"])
        assert store.get_many([b"a", b"b"]) == [put(b"a", b"1").entry, None]


def test_a_server_that_hangs_is_waited_for_no_longer_than_the_timeout(server):
    with closing(ValkeyStore(server.url, timeout=0.2)) as store:
        store.commit_many([put(b"a", b"1")])
        server.send(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"Timeout.*not known"):
            store.commit_many([put(b"a", b"2", version=2, expected=1)])
        with pytest.raises(StoreUnavailable, match=r"Timeout.*nothing was applied"):
            store.get_many([b"a"])
        assert time.monotonic() - began < 2
        server.send(signal.SIGCONT)
        server.wait()
        deadline = time.monotonic() + 30
        while store.get_many([b"a"]) != [Entry(2, FAR, b"2")]:  # it had arrived, and is carried out late
            assert time.monotonic() < deadline


def test_an_interrupt_leaves_no_reply_for_the_next_caller(server, monkeypatch):
    with closing(ValkeyStore(server.url)) as store:
        store.commit_many([put(b"a", b"1"), put(b"b", b"2")])
        server.send(signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr("valkey.connection.Connection.read_response", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.get_many([b"a", b"b"])
        threading.Timer(0.2, server.send, [signal.SIGCONT]).start()  # only now do the replies to the first question come
        assert [entry.value for entry in store.get_many([b"b", b"a"])] == [b"2", b"1"]


def interrupted(*arguments, **more):
    raise KeyboardInterrupt


def test_a_server_that_was_restarted_is_found_again_without_an_error(tmp_path):
    with serving(tmp_path, **ALWAYS) as server, closing(ValkeyStore(server.url)) as store:
        store.commit_many([put(b"a", b"1")])
        server.kill()
        with pytest.raises(StoreUnavailable, match="nothing was applied"):
            store.commit_many([put(b"a", b"2", version=2, expected=1)])
        server.start()
        assert store.get_many([b"a"]) == [put(b"a", b"1").entry]
        server.kill()
        server.start()
        assert store.commit_many([put(b"a", b"2", version=2, expected=1)]) == [True], "an idle connection that broke is made anew"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_checks_who_answers(server, tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", *subject]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with cutting(server.port, lambda s: context.wrap_socket(s, server_side=True)) as proxy:
        trusted = f"{proxy.port}/0?ssl_ca_certs={certificate}"
        with closing(ValkeyStore(f"valkeys://localhost:{trusted}")) as store:
            assert store.commit_many([put(b"a", b"1")]) == [True]
        for stranger, said in ((f"127.0.0.1:{trusted}", "not valid for '127.0.0.1'"), (f"localhost:{proxy.port}/0", "self.signed")):
            with pytest.raises(StoreUnavailable, match=said):
                ValkeyStore(f"valkeys://{stranger}")
        with pytest.raises(StoreUnavailable):
            ValkeyStore(f"valkey://localhost:{proxy.port}", timeout=0.5)


def append(url, name, together, results, stop):
    """Add words of one's own to the values, by compare-and-set, until told to stop. A word is acknowledged, or its fate is not known."""
    store, acknowledged, unknown, n = ValkeyStore(url), [], [], 0
    together.wait(60)
    while not stop.is_set():
        key, word = KEYS[n % len(KEYS)], b"%d:%d" % (name, n)
        try:
            [entry] = store.get_many([key])
            now, value = (entry.version, entry.value) if entry else (None, b"")
            if not store.commit_many([Change(key, now, Entry((now or 0) + 1, FAR, value + word + b" "))])[0]:
                continue  # for certain not applied: the same word again
            acknowledged.append(word)
        except StoreUnavailable:  # and no other error
            unknown.append(word)
            time.sleep(0.01)
        n += 1
    store.close()
    results.put((acknowledged, unknown))


def words(store):
    return [word for entry in store.get_many(KEYS) if entry for word in entry.value.split()]


def await_more(store, count):
    """Until that many more words are there."""
    deadline, before = time.monotonic() + 60, len(words(store))
    while len(words(store)) < before + count:
        assert time.monotonic() < deadline, "the processes do not get on"
        time.sleep(0.01)


def test_no_acknowledged_commit_is_lost_when_the_server_is_killed_again_and_again(tmp_path):
    with serving(tmp_path, **ALWAYS) as server:
        together, results, stop = SPAWN.Barrier(PROCESSES), SPAWN.Queue(), SPAWN.Event()
        processes = [SPAWN.Process(target=append, args=(server.url, n, together, results, stop)) for n in range(PROCESSES)]
        for process in processes:
            process.start()
        with closing(ValkeyStore(server.url)) as store:
            for _ in range(KILLS):
                await_more(store, BETWEEN)
                server.kill()
                server.start()
            await_more(store, BETWEEN)  # all found the server again by themselves
            stop.set()
            told = [results.get(timeout=60) for _ in processes]
            for process in processes:
                process.join(60)
            assert [process.exitcode for process in processes] == [0] * PROCESSES
            found = words(store)
            assert store.check() == []
    acknowledged = {word for known, _ in told for word in known}
    assert len(found) == len(set(found)), "a word was applied twice"
    assert acknowledged <= set(found), "an acknowledged word was lost"
    assert set(found) <= acknowledged | {word for _, unknown in told for word in unknown}, "a word refused was applied"
    assert min(len(known) for known, _ in told) > 0
    assert sum(len(unknown) for _, unknown in told) > 0, "no process met a dead server"
