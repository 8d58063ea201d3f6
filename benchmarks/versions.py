"""This version of the service beside an earlier one, in one run: `python -m benchmarks.versions COMMIT`.

Each version is exported from its own tree into its own archive. Without HTTP, both archives' handlers take the same batches in turn, each
in a process of its own; over HTTP (needs wrk) both servers run all the time, and each measurement is taken of one after the other.
Reported are lower quartiles, or medians of the rounds over HTTP, and the ratio of this version to the earlier one.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.core import lower_quartile
from benchmarks.load import wrk
from benchmarks.serving import Host, prepare
from benchmarks.workloads import FEATURES, STEPS, workloads

ROOT = Path(__file__).parents[1]
PROBE = Path(__file__).with_name("probe.py")
STORES = {"LMDB": "lmdb://{}", "memory": "memory://"}
SIZES = (1, 16, 64, 256)
IN_ONE_BODY = "steps-in-one-body"
FORMS = ("windows", "steps", IN_ONE_BODY)
EXPORT = "from pathlib import Path; from benchmarks.serving import archive; print(archive(Path({!r})))"
SERVE = """
import json, sys
from pathlib import Path
try:
    from host.torchserve.launcher import serving
except ImportError:  # before the package was split
    from host.torchserve import serving
with serving(Path({run!r}), Path({store!r})) as server:
    print("up", json.dumps([server.url, server.headers()]), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Version:
    """A source tree, and the folders of its model store and of its unpacked archive."""

    name: str
    tree: Path
    store: Path
    model: Path

    def python(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python in the tree, with pipes."""
        environment = {**os.environ, "PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, cwd=self.tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def export(name: str, tree: Path, folder: Path) -> Version:
    """Build the benchmarks' model with the exporter of a tree."""
    version = Version(name, tree, folder / "store", folder / "model")
    output, _ = (process := version.python("-c", EXPORT.format(str(version.store)))).communicate()
    if process.returncode:
        raise RuntimeError(f"{name}: the export failed")
    with zipfile.ZipFile(output.splitlines()[-1]) as contents:
        contents.extractall(version.model)
    return version


def earlier_tree(commit: str, folder: Path) -> Path:
    """Unpack the files of a commit."""
    folder.mkdir(parents=True)
    files = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=files, check=True)
    return folder


@contextmanager
def probe(version: Version, store: str) -> Iterator[subprocess.Popen[str]]:
    process = version.python(str(PROBE), str(version.model), store)
    try:
        yield process
    finally:
        process.communicate()


def run_batch(process: subprocess.Popen[str], bodies: list[str]) -> tuple[float, float]:
    """Return the seconds that one batch took, of the processor and by the clock."""
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    process.stdin.write(json.dumps({"bodies": bodies}) + "\n")
    process.stdin.flush()
    cpu, wall = json.loads(process.stdout.readline())
    return cpu, wall


def batch(form: str, size: int, n: int) -> list[str]:
    """Windows, or step n of `size` sessions: bodies of their own, or the instances of one body."""
    values = np.random.default_rng(n).normal(size=(size, STEPS if form == "windows" else 1, FEATURES)).round(3).tolist()
    if form == "windows":
        return [json.dumps({"inputs": x}) for x in values]
    requests = [{"inputs": x, "session": {"id": f"{form}-{size}-{i}", "step": n}} for i, x in enumerate(values)]
    return [json.dumps({"instances": requests})] if form == IN_ONE_BODY else [json.dumps(request) for request in requests]


def measure_core(versions: list[Version], rows: int, folder: Path) -> list[dict[str, Any]]:
    """Return one entry for each store, form, size and version, in microseconds a row."""
    found = []
    for store, url in STORES.items():
        with ExitStack() as stack:
            processes = [stack.enter_context(probe(v, url.format(folder / f"sessions-{v.name}"))) for v in versions]
            for size in SIZES:
                for form in FORMS if size > 1 else FORMS[:-1]:
                    taken: list[list[tuple[float, float]]] = [[] for _ in versions]
                    for n in range(max(24, min(1000, rows // size))):
                        bodies = batch(form, size, n)
                        for process, times in zip(processes, taken, strict=True):
                            times.append(run_batch(process, bodies))
                    for version, times in zip(versions, taken, strict=True):
                        cpu, wall = (lower_quartile(column) / size * 1e6 for column in zip(*times, strict=True))
                        found.append({"store": store, "form": form, "size": size, "version": version.name, "cpu": cpu, "wall": wall})
    return found


@contextmanager
def server(version: Version, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve the version's archive; yield the URL of its predictions, and the headers to send."""
    process = version.python("-c", SERVE.format(run=str(folder / "run"), store=str(version.store)))
    assert process.stdout is not None  # it is a pipe
    try:
        line = next(line for line in process.stdout if line.startswith("up "))
        url, headers = json.loads(line[3:])
        yield f"{url}/predictions/bench", headers
    finally:
        process.communicate()


def measure_http(versions: list[Version], seconds: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Return one entry for each workload, number of connections and version."""
    known = [workload for workload in workloads() if workload.name in ("window of 24 x 8", "session step")]
    with ExitStack() as stack:
        servers = {v.name: stack.enter_context(server(v, folder / v.name)) for v in versions}
        expected: dict[tuple[str, int], list[float]] = {}
        for name, (url, headers) in servers.items():
            for workload in known:
                prepare(Host(name, url, headers), workload, expected)
        return [
            {"workload": workload.name, "connections": connections, "version": name, "round": n}
            | asdict(wrk(url, {**workload.headers, **headers}, workload.bodies, connections, seconds, folder / f"load{number}"))
            for n in range(rounds)
            for number, workload in enumerate(known)
            for connections in workload.connections
            for name, (url, headers) in servers.items()
        ]


def report(core: list[dict[str, Any]], http: list[dict[str, Any]]) -> Iterator[str]:
    """Two versions a line: `before`, `after`, and their ratio."""
    yield "without HTTP: microseconds of processor time a row; the same by the clock"
    for before, after in zip(core[::2], core[1::2], strict=True):
        times = "   ".join(f"{before[k]:8.1f} -> {after[k]:8.1f}  {after[k] / before[k]:5.2f}" for k in ("cpu", "wall"))
        yield f"{before['store']:<8} {before['form']:<18} B = {before['size']:<5} {times}"
    if http:
        yield "over HTTP: requests a second; p50 in milliseconds"
    for key in dict.fromkeys((row["workload"], row["connections"]) for row in http):
        rows = [row for row in http if (row["workload"], row["connections"]) == key]
        medians = [
            [statistics.median(row[k] for row in rows if row["version"] == version) for version in ("before", "after")]
            for k in ("rate", "p50")
        ]
        numbers = "   ".join(f"{before:8,.1f} -> {after:8,.1f}  {after / before:5.2f}" for before, after in medians)
        errors = sum(row["errors"] for row in rows)
        yield f"{key[0]:<18} {key[1]:>3} connections   {numbers}" + (f"   {errors:.0f} ERRORS" if errors else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("commit", help="the earlier version")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each measurement without HTTP")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement over HTTP; 0: none is taken")
    parser.add_argument("--rounds", type=int, default=3, help="over HTTP")
    parser.add_argument("--raw", type=Path, help="where to write the measurements as JSON")
    options = parser.parse_args()
    if options.seconds and shutil.which("wrk") is None:
        print("versions: wrk is not installed (Debian package wrk); --seconds 0 leaves HTTP out", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = earlier_tree(options.commit, folder / "tree")
        versions = [export("before", earlier, folder / "before"), export("after", ROOT, folder / "after")]
        core = measure_core(versions, options.rows, folder)
        http = measure_http(versions, options.seconds, options.rounds, folder / "http") if options.seconds else []
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}; before: {options.commit}")
    for line in report(core, http):
        print(line)
    if options.raw:
        options.raw.write_text(json.dumps({"core": core, "http": http}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
