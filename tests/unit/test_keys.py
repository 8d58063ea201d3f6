"""API keys: what the file holds, who a request comes from, and what happens when the file changes."""

import json
import os
import re

import pytest

from handlers import keys
from handlers.errors import ConfigurationError, Forbidden, Unauthenticated
from handlers.keys import OPERATE, PREDICT, Caller, KeyRing, RefusalLog

NOW = 1_800_000_000.0
READER = Caller("reader", "acme", frozenset({PREDICT}))


class Clock:
    now = NOW

    def __call__(self):
        return self.now


def write(path, *entries):
    """Replace the file as `python -m host keys` does: the time of a file may stand still between two writes, its inode does not."""
    new = path.with_name("new")
    new.write_bytes(keys.dump(entries))
    os.replace(new, path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def clock():
    return Clock()


def bearer(text):
    return {"authorization": f"Bearer {text}"}


def test_a_key_has_256_random_bits_and_its_file_does_not_hold_it(path):
    text, key = keys.generate(READER, NOW)
    assert re.fullmatch(r"cellstate_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    assert keys.generate(READER, NOW)[0] != text
    write(path, key)
    assert text.rpartition("_")[2] not in path.read_text()
    assert keys.parse(path.read_bytes()) == [key]


@pytest.mark.parametrize(
    "headers",
    [
        lambda text: {"authorization": f"Bearer {text}"},
        lambda text: {"authorization": f"bearer   {text} "},
        lambda text: {"x-api-key": text},
        lambda text: {"x-api-key": text, "authorization": "Basic dXNlcjpwYXNz"},
    ],
    ids=["bearer", "other case", "X-API-Key", "beside another scheme"],
)
def test_a_key_is_presented_in_either_header(path, headers):
    text, key = keys.generate(READER, NOW)
    write(path, key)
    assert KeyRing(path).authenticate(headers(text), PREDICT) == READER


def test_what_is_not_a_known_key_is_refused(path, clock):
    text, key = keys.generate(READER, NOW)
    other, _ = keys.generate(READER, NOW)
    write(path, key)
    ring = KeyRing(path, clock=clock)
    wrong = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": text},
        {"authorization": f"Basic {text}"},
        {"x-api-key": ""},
        *map(bearer, [other, text[:-1], text + "x", text.swapcase(), key.id, key.digest.hex(), text[:22] + other[22:], "ä", "x" * 100_000]),
    ]
    for headers in wrong:
        with pytest.raises(Unauthenticated) as refused:
            ring.authenticate(headers, PREDICT)
        assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")
        assert text not in refused.value.message


def test_a_key_without_the_scope_is_forbidden_and_named(path):
    text, key = keys.generate(READER, NOW)
    write(path, key)
    with pytest.raises(Forbidden, match="the key reader lacks the scope operate"):
        KeyRing(path).authenticate(bearer(text), OPERATE)


def test_a_key_expires_at_its_time(path, clock):
    text, key = keys.generate(READER, NOW, expires_at=NOW + 60)
    write(path, key)
    ring = KeyRing(path, clock=clock)
    clock.now = NOW + 59
    ring.authenticate(bearer(text), PREDICT)
    clock.now = NOW + 60
    with pytest.raises(Unauthenticated, match="the key reader has expired"):
        ring.authenticate(bearer(text), PREDICT)


def test_the_file_is_read_again_when_it_changes(path):
    (first, old), (second, new) = keys.generate(READER, NOW), keys.generate(Caller("writer"), NOW)
    write(path, old)
    ring = KeyRing(path)
    write(path, old, new)
    ring.refresh()
    assert ring.authenticate(bearer(second), PREDICT).name == "writer"
    write(path, new)
    ring.refresh()
    with pytest.raises(Unauthenticated, match="wrong, or was revoked"):
        ring.authenticate(bearer(first), PREDICT)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"format": 2, "keys": []}'], ids=["gone", "empty", "cut off", "of a newer release"])
def test_a_file_that_cannot_be_read_keeps_the_keys_and_says_so(path, content, caplog):
    text, key = keys.generate(READER, NOW)
    write(path, key)
    ring = KeyRing(path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(3):
        ring.refresh()
    assert ring.authenticate(bearer(text), PREDICT) == READER
    assert [record.getMessage().split()[0] for record in caplog.records] == ["keys_unreadable"]


ENTRY = keys.generate(READER, NOW)[1].document()
BROKEN = {
    "no file": None,
    "not JSON": b"keys",
    "no object": b"[]",
    "no list": b'{"format": 1, "keys": 3}',
    "another format": b'{"format": 2, "keys": []}',
    "a missing field": json.dumps({"format": 1, "keys": [{"id": "a"}]}).encode(),
    "an unknown scope": json.dumps({"format": 1, "keys": [ENTRY | {"scopes": ["admin"]}]}).encode(),
    "scopes as text": json.dumps({"format": 1, "keys": [ENTRY | {"scopes": ""}]}).encode(),
    "a short hash": json.dumps({"format": 1, "keys": [ENTRY | {"sha256": "00"}]}).encode(),
    "a tenant with a slash": json.dumps({"format": 1, "keys": [ENTRY | {"tenant": "a/b"}]}).encode(),
    "a time without a zone": json.dumps({"format": 1, "keys": [ENTRY | {"expires_at": "2026-11-25T12:00:00"}]}).encode(),
    "one name twice": json.dumps({"format": 1, "keys": [ENTRY, ENTRY | {"id": "other"}]}).encode(),
    "one id twice": json.dumps({"format": 1, "keys": [ENTRY, ENTRY | {"name": "other"}]}).encode(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_server_does_not_start_with_a_file_that_it_cannot_read(path, content):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(f"key_file: {path} cannot be read")):
        KeyRing(path)


def test_the_key_of_the_host_may_do_everything(path):
    text, key = keys.generate(Caller("host"), NOW)
    write(path)
    assert KeyRing(path, key.digest).authenticate(bearer(text), OPERATE).name == "host"
    with pytest.raises(Unauthenticated):
        KeyRing(path).authenticate(bearer(text), OPERATE)


def test_refusals_are_logged_seldom_with_their_number_and_never_with_the_key(path, clock, caplog):
    text, key = keys.generate(READER, NOW)
    write(path, key)
    ring = KeyRing(path, clock=clock)
    for n in range(100):
        clock.now = NOW + n / 10
        for headers, scope in ((bearer(text), OPERATE), (bearer("swordfish"), PREDICT)):
            with pytest.raises((Unauthenticated, Forbidden)):
                ring.authenticate(headers, scope)
    clock.now = NOW + 10
    with pytest.raises(Forbidden):
        ring.authenticate(bearer(text), OPERATE)
    assert [record.getMessage() for record in caplog.records] == [
        "refused code=forbidden key=reader reason='lacks operate' count=1",
        "refused code=unauthenticated key=- reason='unknown' count=1",
        "refused code=forbidden key=reader reason='lacks operate' count=100",
    ]


def test_a_clock_that_was_set_back_does_not_silence_the_log(clock):
    log = RefusalLog(clock)
    assert log.is_due("", "none") == 1
    clock.now = NOW - 3_600
    assert log.is_due("", "none") == 1
