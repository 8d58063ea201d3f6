"""What a million live sessions cost: `python -m benchmarks.capacity`. Not part of `make bench`: it takes some ten minutes and 6 GB of disk.

LSTM 2 x 128, 8 features, exported as always; its service core over the embedded store with the default settings (a commit is on the disk
before its answer), fed batches of 64 JSON bodies as a worker gets them: no HTTP. One store grows from size to size. A step is one
observation of a session, without a `step` field; the sessions of a batch are distinct, their ids as random as the server's own. The service
sweeps meanwhile as it always does. Of a row's time, `read` and `commit` are the store's, `rest` is JSON, records and the model; `cpu` is
the processor's share of all of it, without waiting for the disk or for other processes.
"""

import argparse
import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import lmdb
import numpy as np
import onnxruntime as ort

from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.base import Change, Entry
from handlers.stores.lmdb import HEADER, EmbeddedStore

SIZES, RAW = (1_000, 100_000, 1_000_000), 2 * 2 * 128 * 4  # RAW: bytes of h and c
BATCH, BATCHES, COLD, STEADY = 64, 1_000, 100, 5  # rows; batches measured, after a cold start, and while the file is watched (thousands)
HOT, NEEDED = 1_000, 6_000  # sessions of the hot set; bytes of disk a session, free pages and all
WHAT = f"""LSTM 2 x 128; the service core without HTTP, in batches of {BATCH}; p50 and p99 of a batch.
all = read + commit + rest, and cpu: microseconds a row; KiB written: a row's; free pages wait to be used again."""
MB, PAGE, FAR = 1e6, os.sysconf("SC_PAGE_SIZE"), 10 * 365 * 86_400.0
Row = dict[str, object]
CHANCE = random.Random(0)
INPUTS = [json.dumps([[round(CHANCE.gauss(0, 1), 3) for _ in range(8)]]) for _ in range(1_000)]


class TimedStore(EmbeddedStore):
    """The store itself, with a watch in hand, and a look at its pages."""

    reading = committing = 0.0  # seconds

    def get_many(self, keys: Sequence[bytes]) -> list[Entry | None]:
        began = time.perf_counter()
        entries = super().get_many(keys)
        self.reading += time.perf_counter() - began
        return entries

    def commit_many(self, changes: Sequence[Change]) -> list[bool]:
        began = time.perf_counter()
        applied = super().commit_many(changes)
        self.committing += time.perf_counter() - began
        return applied

    def pages(self) -> dict[str, int]:
        """By their use. `file` are all that were ever needed; `free` wait to be used again, but for the few that list them."""
        stat, ever = self._env.stat(), int(self._env.info()["last_pgno"]) + 1
        kinds = {"branch": stat["branch_pages"], "leaf": stat["leaf_pages"], "overflow": stat["overflow_pages"]}
        return kinds | {"used": (used := sum(kinds.values())), "free": ever - used, "file": ever, "depth": stat["depth"]}


class Worker:
    """What a worker process holds: model, store and service. The telemetry is on, as always; nobody fetches it."""

    def __init__(self, folder: Path, sync: bool = True) -> None:
        settings = Settings(store=f"lmdb://{folder / 'sessions'}", store_sync=sync)
        signature = Signature.load(folder / "signature.json")
        backend = open_backend(folder, signature, settings)
        began = time.perf_counter()
        self.store = TimedStore(str(folder / "sessions"), settings.store_bytes, sync)
        self.opening, self.cpu, self.settings = time.perf_counter() - began, 0.0, settings
        self.service = Frontend.over(ServiceContext(backend, signature, self.store, settings))

    def serve(self, sessions: Sequence[int], more: str = "") -> float:
        """Seconds of one batch: one observation for each session. Whatever is refused ends the benchmark."""
        inputs = CHANCE.choices(INPUTS, k=len(sessions))
        bodies = [f'{{"inputs":{x},"session":{{"id":"{name(i)}"{more}}}}}'.encode() for x, i in zip(inputs, sessions, strict=True)]
        began, cpu = time.perf_counter(), time.process_time()
        outcomes = self.service.handle_batch([HttpRequest(body) for body in bodies])
        seconds, self.cpu = time.perf_counter() - began, self.cpu + time.process_time() - cpu
        refused = [outcome.body for outcome in outcomes if outcome.status != 200]
        if refused:
            raise SystemExit(f"capacity: {len(refused)} of {len(bodies)} refused, the first {refused[0]!r}")
        return seconds

    def create(self, first: int, end: int) -> Iterator[float]:
        """The sessions from `first` to `end`, batch by batch."""
        return (self.serve(range(i, min(i + BATCH, end)), ',"step":0') for i in range(first, end, BATCH))

    def step(self, count: int, batches: int = BATCHES) -> Iterator[float]:
        """Any of the first `count` sessions, batch by batch. Ids are in no order, so the first are as scattered as any."""
        return (self.serve(CHANCE.sample(range(count), min(BATCH, count))) for _ in range(batches))

    def close(self) -> None:
        self.store.close()


def name(i: int) -> str:
    """22 characters, in no order, as the server's own ids."""
    return base64.urlsafe_b64encode(hashlib.blake2b(i.to_bytes(8, "little"), digest_size=16).digest()).decode().rstrip("=")


def process(file: str, field: str) -> int:
    """A number that /proc tells of this process."""
    return int(Path("/proc/self", file).read_text().partition(f"{field}:")[2].split()[0])


def percentiles(seconds: Sequence[float]) -> Row:
    return {f"p{p} ms": 1e3 * float(np.percentile(seconds, p)) for p in (50, 99)}


def cost(worker: Worker, served: Iterable[float], rows: int) -> Row:
    """What it takes to serve so many rows: the whole and its parts, and what is handed to the kernel to write."""
    store, written = worker.store, process("io", "wchar")
    store.reading = store.committing = worker.cpu = 0.0
    seconds = list(served)
    written, all_ = process("io", "wchar") - written, sum(seconds)
    parts = {"all": all_, "read": store.reading, "commit": store.committing, "rest": all_ - store.reading - store.committing}
    each = {label: 1e6 * value / rows for label, value in (parts | {"cpu": worker.cpu}).items()}
    return {"rows/s": rows / all_, **percentiles(seconds), **each, "KiB written": written / rows / 1024}


def creation(worker: Worker, have: int, count: int) -> Row:
    """From `have` to `count` sessions; measured is the last tenth, at least 1,000."""
    last = max(have, count - max(1_000, count // 10))
    sum(worker.create(have, last))
    return {"sessions": count, "of them timed": count - last, **cost(worker, worker.create(last, count), count - last)}


def steps(worker: Worker, count: int) -> list[Row]:
    """Over all sessions, and over a hot set of them."""
    sets, rows = sorted({count, min(HOT, count)}), BATCHES * BATCH
    return [{"sessions": count, "drawn from": some, **cost(worker, worker.step(some), rows)} for some in sets]


def space(worker: Worker, folder: Path, count: int) -> Row:
    """Bytes a session are those of the pages in use, free ones left out; `stored` is one's key, header and value."""
    pages, file = worker.store.pages(), (folder / "sessions" / "data.mdb").stat()
    key, entry = next(worker.store.scan(b""))
    used, stored = pages["used"] * PAGE, len(key) + HEADER.size + len(entry.value)
    sizes: Row = {"file MB": file.st_size / MB, "on disk MB": file.st_blocks * 512 / MB, "used MB": used / MB}
    kinds: Row = {kind: pages[kind] for kind in ("branch", "leaf", "overflow", "free", "depth")}
    ratios: Row = {"bytes a session": used / count, "of h and c": used / count / RAW, "stored": stored, "of stored": used / count / stored}
    return {"sessions": count, **sizes, **kinds, **ratios}


def memory(count: int) -> Row:
    """`mapped` is for the most part the store's pages that were touched: the kernel takes them back when it needs room."""
    resident, own = (process("smaps_rollup", kind) * 1024 / MB for kind in ("Rss", "Anonymous"))
    return {"sessions": count, "resident MB": resident, "own MB": own, "mapped MB": resident - own}


def steady(worker: Worker, count: int) -> list[Row]:
    """The file's pages while steps go on and on."""
    rows: list[Row] = [{"batches": 0, **worker.store.pages(), "rows/s": ""}]
    for done in range(1, STEADY + 1):
        rate = BATCHES * BATCH / sum(worker.step(count))
        rows.append({"batches": done * BATCHES, **worker.store.pages(), "rows/s": rate})
    return rows


def cold(folder: Path, count: int) -> Row:
    """A new process over a file that is not in memory, as far as one may have it dropped: the machine below may remember it."""
    with open(folder / "sessions" / "data.mdb", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return dict(json.loads(part(folder, "start", count)))


def start(folder: Path, count: int) -> Row:
    """In the new process."""
    with closing(Worker(folder)) as worker:
        before, seconds = process("io", "read_bytes"), list(worker.step(count, COLD))
        read = (process("io", "read_bytes") - before) / MB
        row = {"sessions": count, "open ms": 1e3 * worker.opening, "first batch ms": 1e3 * seconds[0], f"all {COLD} s": sum(seconds)}
        return row | percentiles(seconds) | {"read MB": read, "then a sweep's slice ms": 1e3 * next(slices(worker, time.time()))[0]}


def sweep(worker: Worker, count: int) -> list[Row]:
    """A round over live sessions that lie in memory, then one when everybody's time is over."""
    list(slices(worker, time.time()))  # ends the round that the service began
    (idle, none), (busy, all_) = (zip(*slices(worker, time.time() + later), strict=True) for later in (0.0, FAR))
    if (sum(none), sum(all_)) != (0, count):
        raise SystemExit("capacity: the sweep removed live sessions, or left ended ones")
    return [
        {"round": label, "slices": len(took), "all s": sum(took), "us an entry": 1e6 * sum(took) / count, **percentiles(took)}
        for label, took in (("finds nothing", idle), ("removes all", busy))
    ]


def slices(worker: Worker, now: float) -> Iterator[tuple[float, int]]:
    """One round: each slice's seconds, and how many sessions it removed."""
    ends = False
    while not ends:
        began = time.perf_counter()
        swept = worker.store.sweep(now, worker.settings.sweep_slice)
        yield time.perf_counter() - began, len(swept.removed)
        ends = swept.ends_round


def after(worker: Worker, count: int) -> list[Row]:
    """The store once all is gone, and when a tenth has come back: are the free pages used again?"""
    back, empty = max(1_000, count // 10), worker.store.pages()
    rate = back / sum(worker.create(0, back))
    return [{"sessions": 0, **empty, "rows/s": ""}, {"sessions": back, **worker.store.pages(), "rows/s": rate}]


def table(title: str, rows: Sequence[Row]) -> str:
    cells = [[*rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(["", title, *("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def heading(folder: Path, sizes: Sequence[int]) -> str:
    model = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    kind = max((m for m in mounts if folder.resolve().is_relative_to(m[0])), key=lambda m: len(m[0]))[1]
    machine = f"{os.cpu_count()} cores, {model or os.uname().machine}, {PAGE * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, {kind}"
    versions = f"Python {sys.version.split()[0]}, LMDB {'.'.join(map(str, lmdb.version()))}, ONNX Runtime {ort.__version__}"
    command = f"python -m benchmarks.capacity --sessions {','.join(map(str, sizes))}"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}; {versions}\n{command}\n{WHAT}"


def report(folder: Path, sizes: Sequence[int]) -> None:
    tables = defaultdict[str, list[Row]](list)
    for have, count in zip((0, *sizes), sizes, strict=False):
        with closing(Worker(folder)) as worker:
            tables["Memory"] += [] if have else [memory(0)]
            tables["Creation"].append(creation(worker, have, count))
            tables["Steps"] += steps(worker, count)
            tables["Space"].append(space(worker, folder, count))
            tables["Memory"].append(memory(count))
        tables["Cold start: a new process, the file dropped from the page cache"].append(cold(folder, count))
    with closing(Worker(folder, sync=False)) as worker:
        tables["Steps, store_sync off"] = steps(worker, count)
    with closing(Worker(folder)) as worker:
        tables["Pages while steps go on"] = steady(worker, count)
        tables[f"Sweep in slices of {worker.settings.sweep_slice:,}"] = sweep(worker, count)
        tables["Pages after the sweep"] = after(worker, count)
    print("\n".join(table(title, rows) for title, rows in tables.items()))


def part(folder: Path, name: str, count: int = 0) -> bytes:
    """What a process of its own says."""
    options = ["--folder", str(folder), "--sessions", str(count), "--part", name]
    return subprocess.run([sys.executable, "-m", "benchmarks.capacity", *options], check=True, stdout=subprocess.PIPE).stdout


def export(folder: Path) -> None:
    """In a process of its own: it needs PyTorch, of which the measured one must not hold anything."""
    from benchmarks.serving import archive

    with zipfile.ZipFile(archive(folder / "store")) as contents:
        contents.extractall(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--sessions", default=",".join(map(str, SIZES)), help="sizes, ascending")
    parser.add_argument("--folder", type=Path, help="where to put the temporary store, 6 GB for a million sessions")
    parser.add_argument("--part", choices=("start", "export"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sessions.split(",")]
    if options.part == "start":
        print(json.dumps(start(options.folder, sizes[0])))
    elif options.part == "export":
        export(options.folder)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as made:
            if shutil.disk_usage(made).free < (need := NEEDED * max(sizes)):
                parser.error(f"{made} has no {need:,} bytes free: name another --folder")
            part(Path(made), "export")
            print(heading(Path(made), sizes), flush=True)
            report(Path(made), sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
