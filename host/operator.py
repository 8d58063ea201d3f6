"""The operator's command for the sessions of a store: count, check, sweep, list and close them.

The command uses the service's own store interface and changes sessions by compare-and-set, so it may run beside the service. It reads
records without their models, so a session whose model has changed counts as live.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from handlers.engine.factory import open_store
from handlers.errors import ConfigurationError, StoreUnavailable
from handlers.sessions.machine import Phase, PhaseRules
from handlers.sessions.record import Record
from handlers.sessions.state import CorruptState
from handlers.sessions.status import timestamp
from handlers.sessions.tenancy import session_id, tenant_of
from handlers.sessions.unit_of_work import changed_parts
from handlers.settings import Settings
from handlers.stores.base import Change, Entry, Store
from host.kept_states import problems_of_kept
from host.program import prefix, spelled
from host.table import align

SOUND, PROBLEMS, NOT_OPEN = 0, 1, 2  # exit codes
BATCH = 256  # sessions closed in one commit
SLICE = 1_000  # entries looked at in one step of a sweep
TRIES = 8  # at a session that a server changes meanwhile
GROUP = ("model", "tenant", "digest")
COLUMNS = ("live", "closed", "expired", "past", "unreadable")  # past: beyond the tombstone too, and waiting for a sweep


@dataclass(frozen=True, slots=True)
class Session:
    """One stored session; without a record, `problem` says why it cannot be read."""

    key: bytes
    entry: Entry
    record: Record | None
    problem: str = ""

    @classmethod
    def read(cls, key: bytes, entry: Entry) -> "Session":
        try:
            return cls(key, entry, Record.decode(entry.value))
        except CorruptState as e:
            return cls(key, entry, None, f"its record cannot be read ({e})")

    @property
    def name(self) -> str:
        """`model/id`."""
        return _name(self.key)

    @property
    def model(self) -> str:
        return self.name.partition("/")[0]

    @property
    def tenant(self) -> str:
        """The tenant that the session belongs to."""
        return tenant_of(self.name.partition("/")[2])

    def column(self, now: float) -> str:
        """Which of COLUMNS it counts under."""
        if self.record is None:
            return "unreadable"
        rules = PhaseRules(self.record.state.digest, tombstone_ttl=self.entry.purge_at - self.record.expires_at)
        where = rules.phase(self.record, now)
        return "past" if where is Phase.ABSENT else where.value


def _name(key: bytes) -> str:
    return key.decode(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        store = open_existing(options.url)
        try:
            return int(options.run(store, options, time.time()))
        finally:
            store.close()
    except (ConfigurationError, StoreUnavailable) as e:
        print(f"{prefix('host.sessions')}: {e.message}", file=sys.stderr)
        return NOT_OPEN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spelled("python -m host.sessions"),
        description="The sessions of a store, for its operator.",
        epilog=spelled("With http://host:port, a running server: warm and backtest, see python -m host.sessions http:// --help"),
    )
    parser.add_argument("url", help="lmdb:///folder or valkey://host:port/db")
    verbs = parser.add_subparsers(required=True, metavar="stats | check | sweep | list | close")
    stats = verbs.add_parser("stats", help="how many of each model and tenant, in which phase, how large, how old")
    stats.add_argument("--tenant", help="only sessions of this tenant")
    stats.add_argument("--json", action="store_true", help="as one JSON array")
    stats.set_defaults(run=_stats)
    verbs.add_parser("check", help="look at every record; exit 0 sound, 1 problems, 2 cannot open").set_defaults(run=_check)
    verbs.add_parser("sweep", help="remove what is past its time").set_defaults(run=_sweep)
    listing = verbs.add_parser("list", help="one line a session: model, tenant, id, step, when it expires")
    listing.add_argument("--tenant", help="only sessions of this tenant")
    listing.add_argument("--prefix", default="", help="only those whose model/id begins so")
    listing.add_argument("--after", default="", metavar="MODEL/ID", help="go on behind this one")
    listing.add_argument("--limit", type=_positive, default=100)
    listing.set_defaults(run=_list)
    close = verbs.add_parser("close", help="close live sessions; without --yes only show them")
    close.add_argument("--prefix", required=True, type=_closable, help="model/ or model/and-what-the-id-begins-with")
    close.add_argument("--yes", action="store_true")
    close.set_defaults(run=_close)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return int(text)


def _closable(prefix: str) -> str:
    if "/" not in prefix:
        raise argparse.ArgumentTypeError("name the model and a slash, so that no other model's sessions are closed with it")
    return prefix


def open_existing(url: str) -> Store:
    """The store that is there already. Raises ConfigurationError or StoreUnavailable."""
    scheme, _, place = url.partition("://")
    if scheme == "memory":
        raise ConfigurationError("memory:// lives inside its worker and cannot be seen from outside")
    if scheme == "lmdb" and not (Path(place) / "data.mdb").is_file():
        raise ConfigurationError(f"{place} holds no store")  # opening it would make one
    return open_store(Settings(store=url))


def _sessions(store: Store, prefix: str = "", after: str = "", tenant: str | None = None) -> Iterator[Session]:
    """Yield the sessions whose `model/id` begins with `prefix` and follows `after`; of one tenant, or of all."""
    sessions = (Session.read(key, entry) for key, entry in store.scan(prefix.encode(), after.encode()))
    return (session for session in sessions if tenant in (None, session.tenant))


# stats


def _stats(store: Store, options: argparse.Namespace, now: float) -> int:
    rows = _count(_sessions(store, tenant=options.tenant), now)
    print(json.dumps(rows) if options.json else _table(rows))
    return SOUND


def _count(sessions: Iterable[Session], now: float) -> list[dict[str, Any]]:
    """One row for each model, tenant and digest of the model: a session belongs to exactly one."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    oldest: dict[tuple[str, str, str], float] = {}
    for session in sessions:
        digest = session.record.state.digest.hex()[:8] if session.record else ""
        group = session.model, session.tenant, digest
        row = counts.setdefault(group, Counter())
        row.update({session.column(now): 1, "bytes": len(session.key) + len(session.entry.value)})
        if session.record:
            oldest[group] = min(session.record.created_at, oldest.get(group, now))
    return [
        dict(zip(GROUP, group, strict=True))
        | {name: counts[group][name] for name in (*COLUMNS, "bytes")}
        | {"oldest": timestamp(oldest[group]) if group in oldest else None}
        for group in sorted(counts)
    ]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Columns side by side, numbers to the right, with a sum below."""
    summed = {name: sum(row[name] for row in rows) for name in (*COLUMNS, "bytes")}
    oldest = min((row["oldest"] for row in rows if row["oldest"]), default=None)
    lines = [[*row.values()] for row in rows] + [["all", "", "", *summed.values(), oldest]]
    cells = [[*GROUP, *COLUMNS, "bytes", "oldest"], *([_cell(value) for value in line] for line in lines)]
    return "\n".join(align(cells, right=range(len(GROUP), len(GROUP) + len(COLUMNS) + 1)))


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else value or "–"


# check


def _check(store: Store, options: argparse.Namespace, now: float) -> int:
    lengths: dict[bytes, int] = {}
    problems, count = store.check(), 0
    for session in _sessions(store):
        count += 1
        found = [*_problems(session, lengths), *problems_of_kept(store, session.key, session.entry, session.record)]
        problems += [f"{session.name}: {problem}" for problem in found]
    print("\n".join(problems) if problems else f"sound: {count} sessions")
    return PROBLEMS if problems else SOUND


def _problems(session: Session, lengths: dict[bytes, int]) -> Iterator[str]:
    """What cannot be so. `lengths` remembers the size of each model's state."""
    if b"/" not in session.key:
        yield "its key names no model"
    if session.record is None:
        yield session.problem
        return
    record, state = session.record, session.record.state
    if record.last_step > state.position:
        yield f"its last step {record.last_step} lies behind its position {state.position}"
    if record.expires_at > session.entry.purge_at:
        yield f"it may be forgotten at {timestamp(session.entry.purge_at)}, before it expires"
    if not all(np.isfinite(known.values).all() for known in (state, *record.unstored)):
        yield "its state is not finite"
    expected = 0 if record.closed else lengths.setdefault(state.digest, state.values.size)
    if state.values.size != expected:
        yield f"its state has {state.values.size} values, where {expected} belong"


# sweep


def _sweep(store: Store, options: argparse.Namespace, now: float) -> int:
    removed, ends = 0, False
    while not ends:
        swept = store.sweep(now, SLICE)
        removed, ends = removed + len(swept.removed), swept.ends_round
    print(f"{removed} removed" + ("; Valkey itself removes what is past its time" if options.url.startswith("valkey") else ""))
    return SOUND


# list


def _list(store: Store, options: argparse.Namespace, now: float) -> int:
    found = list(islice(_sessions(store, options.prefix, options.after, options.tenant), options.limit + 1))
    for session in found[: options.limit]:
        print(_line(session, now))
    if len(found) > options.limit:
        print(f"more: --after {found[options.limit - 1].name}", file=sys.stderr)
    return SOUND


def _line(session: Session, now: float) -> str:
    model, _, id = session.name.partition("/")
    if session.record is None:
        return "\t".join((model, session.tenant, session_id(id), "–", session.problem))
    where = session.column(now)
    when = timestamp(session.record.expires_at)
    return "\t".join(
        (model, session.tenant, session_id(id), str(session.record.state.position), when if where == "live" else f"{when} {where}")
    )


# close


def _close(store: Store, options: argparse.Namespace, now: float) -> int:
    """Close by compare-and-set: a session that a server advances meanwhile is read again and closed where it is then."""
    columns = [(session.key, session.column(now)) for session in _sessions(store, options.prefix)]
    wanted = [key for key, column in columns if column == "live"]
    broken = [f"{_name(key)}: cannot be read, and stays" for key, column in columns if column == "unreadable"]
    if not options.yes:
        print("\n".join([*map(_name, wanted), *broken, f"{len(wanted)} would be closed; --yes closes them"]))
        return PROBLEMS if broken else SOUND
    left = [key for i in range(0, len(wanted), BATCH) for key in _close_some(store, wanted[i : i + BATCH], now)]
    broken += [f"{_name(key)}: changed under {TRIES} tries" for key in left]
    print("\n".join([*broken, f"{len(wanted) - len(left)} closed"]))
    return PROBLEMS if broken else SOUND


def _close_some(store: Store, keys: Sequence[bytes], now: float) -> Sequence[bytes]:
    """Those that could not be closed."""
    for _ in range(TRIES):
        entries = zip(keys, store.get_many(keys), strict=True)
        changes = [change for key, entry in entries if entry and (change := _tombstone(Session.read(key, entry), now))]
        applied = store.commit_many(changes)
        keys = [change.key for change, done in zip(changes, applied, strict=True) if not done]
        if not keys:
            break
    return keys


def _tombstone(session: Session, now: float) -> Change | None:
    """What closing leaves, as the service leaves it; None for a session that is not live any more."""
    record, entry = session.record, session.entry
    if record is None or session.column(now) != "live":
        return None
    purge_at = now + entry.purge_at - record.expires_at
    closed = record.tombstone(now)
    parts = changed_parts(closed, record.stored) if record.stored else None
    return Change(session.key, entry.version, Entry(entry.version + 1, purge_at, closed.encode()), parts)
