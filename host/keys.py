"""`python -m host keys`: add, list and revoke the API keys of a key file.

The file is replaced as a whole under a lock, so that servers and other commands always read a complete one. Servers that run notice the
change with their next batch of requests.
"""

import argparse
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handlers.keys import DEFAULT_TENANT, NAME, SCOPES, Caller, Key, dump, generate, parse
from host.folder import private_file
from host.ports import HostError
from host.table import align

COLUMNS = ("name", "id", "tenant", "scopes", "created_at", "expires_at")
FIRST = "first"  # the name of the key that a first start makes
AGE = re.compile(r"(\d+)([dhm])")
UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Define the command's options. `options.key_file` is set by the caller's `--keys` and `--folder`."""
    verbs = parser.add_subparsers(required=True, metavar="add | list | revoke")
    add = verbs.add_parser("add", help="make a key and print it: it is kept nowhere else")
    add.add_argument("name", type=_name, help="of the program or person that is given the key")
    add.add_argument("--tenant", type=_name, default=DEFAULT_TENANT, help="whose sessions the key sees (default: %(default)s)")
    add.add_argument("--scope", action="append", choices=SCOPES, help="may be repeated (default: predict)")
    add.add_argument("--expires", type=_expiry, metavar="30d | 12h | DATE", help="when the key stops working (default: never)")
    add.set_defaults(run=_add)
    listing = verbs.add_parser("list", help="one line a key, without the keys themselves")
    listing.add_argument("--json", action="store_true", help="as one JSON array")
    listing.set_defaults(run=_list)
    revoke = verbs.add_parser("revoke", help="remove a key: it stops working at once")
    revoke.add_argument("name", help="of the key, or its id")
    revoke.set_defaults(run=_revoke)
    for verb in verbs.choices.values():
        verb.add_argument("--folder", type=Path, default=Path("run"), help="of the server, which keeps its keys there (default: run)")
        verb.add_argument("--keys", type=Path, help="the key file, where it is not the folder's keys.json")


def key_file(options: argparse.Namespace) -> Path:
    """Return the path of the key file that `--keys` and `--folder` name."""
    return Path(options.keys or options.folder / "keys.json").resolve()


def make_first(path: Path, text_file: Path) -> bool:
    """Make a key file with one key of all scopes, unless there is one; whether it was made. The key itself goes to `text_file`."""
    with _locked(path):
        if path.exists():
            return False
        text, key = generate(Caller(FIRST), time.time())
        private_file(text_file, text + "\n")
        _replace(path, [key])
        return True


def _add(options: argparse.Namespace) -> int:
    path = key_file(options)
    with _locked(path):
        keys = _read(path) if path.exists() else []
        if any(key.caller.name == options.name for key in keys):
            raise HostError(f"{path} has a key {options.name} already: choose another name, or revoke that key first")
        now, caller = time.time(), Caller(options.name, options.tenant, frozenset(options.scope or ["predict"]))
        text, key = generate(caller, now, options.expires)
        _replace(path, [*keys, key])
    print(text)
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = [{name: value for name, value in key.document().items() if name != "sha256"} for key in _read(key_file(options))]
    if options.json:
        print(json.dumps(rows))
        return 0
    lines = [COLUMNS, *(tuple(_cell(row[name]) for name in COLUMNS) for row in rows)]
    print("\n".join(align(lines)))
    return 0


def _revoke(options: argparse.Namespace) -> int:
    path = key_file(options)
    with _locked(path):
        keys = _read(path)
        left = [key for key in keys if options.name not in (key.caller.name, key.id)]
        if len(left) == len(keys):
            raise HostError(f"{path} has no key {options.name}")
        _replace(path, left)
    print(f"revoked {options.name}", file=sys.stderr)
    return 0


def _cell(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else "–" if value is None else str(value)


def _read(path: Path) -> list[Key]:
    try:
        return parse(path.read_bytes())
    except ValueError as e:
        raise HostError(f"{path} cannot be read: {e}") from e


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside the key file: of two commands at once, neither loses what the other wrote."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, keys: list[Key]) -> None:
    """Write the file whole, then put it in the old one's place."""
    new = private_file(path.with_name(path.name + ".new"), dump(keys).decode())
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected up to 64 letters, digits, dots, dashes and underscores, got {text!r}")
    return text


def _expiry(text: str) -> float:
    """Return the time that `30d`, `12h`, `5m` from now or a date with an optional time stand for, in seconds since the epoch."""
    if match := AGE.fullmatch(text):
        return (datetime.now(UTC) + timedelta(**{UNITS[match[2]]: int(match[1])})).timestamp()
    try:
        when = datetime.fromisoformat(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected 30d, 12h, 5m or a date as 2027-06-30, got {text!r}") from e
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
