"""API keys: the key file, and who a request comes from.

A key is `cellstate_{id}_{secret}`: a public id by which the file is searched, and 256 random bits. The file holds a SHA-256 of each key and
never the key itself; a fast hash is enough for a secret that nobody can guess. The file is JSON, is replaced as a whole by `python -m host
keys`, and may be shared by any number of servers. Documented in docs/keys.md.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handlers.errors import ConfigurationError, Forbidden, Unauthenticated

log = logging.getLogger("cellstate")
PREDICT, OPERATE = "predict", "operate"
SCOPES = (PREDICT, OPERATE)
DEFAULT_TENANT = "default"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a key, of a tenant
TOKEN = re.compile(r"cellstate_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
FORMAT = 1
LOG_INTERVAL = 10.0  # seconds between two log lines about the same key and reason


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    name: str
    tenant: str = DEFAULT_TENANT
    scopes: frozenset[str] = frozenset(SCOPES)


ANYONE = Caller("")  # where no keys are configured


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the key file. `digest` is the SHA-256 of the whole key, `expires_at` seconds since the epoch."""

    id: str
    caller: Caller
    digest: bytes
    created_at: float
    expires_at: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        return {
            "id": self.id,
            "name": self.caller.name,
            "tenant": self.caller.tenant,
            "scopes": [scope for scope in SCOPES if scope in self.caller.scopes],
            "sha256": self.digest.hex(),
            "created_at": _format_time(self.created_at),
            "expires_at": None if self.expires_at is None else _format_time(self.expires_at),
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Key":
        """Read an entry. Raises ValueError, KeyError or TypeError for one that is malformed."""
        scopes, digest, expires = document["scopes"], bytes.fromhex(document["sha256"]), document["expires_at"]
        if not set(scopes) <= set(SCOPES) or not isinstance(scopes, list):
            raise ValueError(f"scopes: expected a list of {', '.join(SCOPES)}, got {scopes!r}")
        if len(digest) != hashlib.sha256().digest_size:
            raise ValueError(f"sha256: expected 64 hexadecimal digits, got {len(digest) * 2}")
        for field in ("name", "tenant"):
            if not NAME.fullmatch(document[field]):
                raise ValueError(f"{field}: expected letters, digits, dots, dashes and underscores, got {document[field]!r}")
        caller = Caller(document["name"], document["tenant"], frozenset(scopes))
        return cls(document["id"], caller, digest, _parse_time(document["created_at"]), None if expires is None else _parse_time(expires))


def generate(caller: Caller, now: float, expires_at: float | None = None) -> tuple[str, Key]:
    """Make a key; return its text, which is kept nowhere, and its entry."""
    id = secrets.token_hex(6)
    text = f"cellstate_{id}_{secrets.token_urlsafe(32)}"
    return text, Key(id, caller, digest(text), now, expires_at)


def digest(text: str) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(text.encode()).digest()


def parse(content: bytes) -> list[Key]:
    """Read a key file. Raises ValueError that says what is wrong with it."""
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} is not known: it was written by another release")
        keys = [Key.parse(entry) for entry in document["keys"]]
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"an entry is malformed ({type(e).__name__}: {e})") from e
    if len({key.id for key in keys}) < len(keys) or len({key.caller.name for key in keys}) < len(keys):
        raise ValueError("two entries have the same id or name")
    return keys


def dump(keys: Iterable[Key]) -> bytes:
    """Return the contents of a key file."""
    return json.dumps({"format": FORMAT, "keys": [key.document() for key in keys]}, indent=1).encode() + b"\n"


class KeyRing:
    """The keys of one file, read again when it changes. For one thread.

    `host_digest` is the SHA-256 of the key with which `python -m host` asks the server that it started. `clock` gives seconds since the
    epoch.

    Raises:
        ConfigurationError: the file cannot be read, when the server starts. Later, the keys that were read last stay valid.
    """

    def __init__(self, path: Path, host_digest: bytes = b"", clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._host = Key("", Caller("host"), host_digest, 0.0)
        self._refusals = RefusalLog(clock)
        try:
            self._version = _version(path)
            self._keys = {key.id: key for key in parse(path.read_bytes())}
        except (OSError, ValueError) as e:
            raise ConfigurationError(f"key_file: {path} cannot be read ({e})") from e

    def refresh(self) -> None:
        """Read the file again if it has changed. A file that cannot be read is logged, and changes nothing."""
        try:
            version = _version(self._path)
            if version == self._version:
                return
            self._keys, self._version = {key.id: key for key in parse(self._path.read_bytes())}, version
            log.info("keys_read count=%d", len(self._keys))
        except (OSError, ValueError) as e:
            if self._refusals.is_due("", "unreadable"):
                log.error("keys_unreadable %s (%s); the keys that were read last stay valid", self._path, e)

    def authenticate(self, headers: Mapping[str, str], scope: str) -> Caller:
        """Return who sent a request. Names of headers are in lower case.

        Raises:
            Unauthenticated: there is no key, or none that is known and valid.
            Forbidden: the key lacks the scope.
        """
        text = presented(headers)
        if text is None:
            raise self._refusal(Unauthenticated("no key: send one as `Authorization: Bearer` or as `X-API-Key`"), "", "none")
        key = self._find(text)
        if key is None:
            raise self._refusal(Unauthenticated("the key is not known: it is wrong, or was revoked"), "", "unknown")
        name = key.caller.name
        if key.expires_at is not None and self._clock() >= key.expires_at:
            raise self._refusal(Unauthenticated(f"the key {name} has expired: ask for a new one"), name, "expired")
        if scope not in key.caller.scopes:
            raise self._refusal(Forbidden(f"the key {name} lacks the scope {scope}"), name, f"lacks {scope}")
        return key.caller

    def _find(self, text: str) -> Key | None:
        """Find a key by its id, and compare its hash in constant time."""
        found, match = digest(text), TOKEN.fullmatch(text)
        if self._host.digest and hmac.compare_digest(found, self._host.digest):
            return self._host
        key = self._keys.get(match[1]) if match else None
        return key if key is not None and hmac.compare_digest(found, key.digest) else None

    def _refusal(self, error: Unauthenticated | Forbidden, name: str, reason: str) -> Unauthenticated | Forbidden:
        if count := self._refusals.is_due(name, reason):
            log.warning("refused code=%s key=%s reason=%r count=%d", error.code, name or "-", reason, count)
        error.key = name
        return error


class RefusalLog:
    """Bounds the log lines about refused requests: one for each key and reason every `LOG_INTERVAL` seconds, with their number."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}  # when the last line was written
        self._counts: dict[tuple[str, str], int] = {}  # refusals since that line

    def is_due(self, name: str, reason: str) -> int:
        """Count one refusal; return how many the line to be written now stands for, 0 for no line."""
        what, now = (name, reason), self._clock()
        self._counts[what] = self._counts.get(what, 0) + 1
        if 0 <= now - self._last.get(what, -LOG_INTERVAL) < LOG_INTERVAL:
            return 0
        self._last[what] = now
        return self._counts.pop(what)


def presented(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request presents: the bearer token, else the header X-API-Key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip() or None


def _version(path: Path) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _parse_time(text: str) -> float:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{text}: a time needs its zone, such as +00:00")
    return when.timestamp()
