"""`python -m loadtests`: load on a real TorchServe, every answer compared with the offline one; exits with 1 when one was wrong.

It starts a server of its own over the model store, or aims at a running one with `--url` and `--token`. Reports: `out/load/`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from host.archives import Archive, find
from host.ports import HostError
from host.torchserve.launcher import serving
from loadtests.load.expected import KINDS, PREDICT, Expected
from loadtests.offline import OfflineModel

ROOT = Path(__file__).resolve().parents[2]
PREFERRED = "traffic"
GRACE = 20  # seconds in which the streams that are open at the end finish


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes."""

    url: str
    token: str


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server that we started must not outlive us
    try:
        return _run(options)
    except (HostError, OSError, ValueError, LookupError) as e:
        print(f"load: {e}", file=sys.stderr)
        return 2


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests", description="Load a server and check every answer.")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="folder with .mar archives (default: model_store)")
    parser.add_argument("--model", default="", help=f"its name (default: {PREFERRED}, else the first that streams)")
    parser.add_argument("--url", default="", help="a running server, of the same archives; default: start one")
    parser.add_argument("--token", default="", help="inference token of that server")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--users", type=int, default=32, help="requests in flight; one user in four sends windows, the others streams")
    parser.add_argument("--report", type=Path, default=Path("out/load"), help="folder of the reports (default: out/load)")
    parser.add_argument("--expected", type=Path, help="take the offline answers from here (default: run the model offline now)")
    options = parser.parse_args(arguments)
    if options.url and not options.token:
        parser.error("--url needs --token: the inference key in the server's key_file.json")
    return options


def _run(options: argparse.Namespace) -> int:
    archive = _choose(find(options.store.resolve()), options.model)
    report: Path = options.report.resolve()
    report.mkdir(parents=True, exist_ok=True)
    answers = options.expected.resolve() if options.expected else _prepare(archive, report / "expected.npz")
    with _target(options, report) as target:
        print(f"load: {options.users} users for {options.seconds} s on {archive.name} at {target.url}", flush=True)
        code = _locust(target, answers, report, options.seconds, options.users)
    return _verdict(code, report, Expected.load(answers))


def _choose(archives: Sequence[Archive], name: str) -> Archive:
    """The archive to load. Raises LookupError."""
    named = {archive.name: archive for archive in archives}
    if name:
        if name not in named:
            raise LookupError(f"--model: no archive of {name!r} in the store; it has {', '.join(named)}")
        return named[name]
    streaming = [archive for archive in archives if archive.signature["streaming"]["possible"]]
    return named.get(PREFERRED) or next(iter(streaming or archives))


def _prepare(archive: Archive, path: Path) -> Path:
    print(f"load: running {archive.name} offline for the answers to expect", flush=True)
    Expected.compute(OfflineModel(archive.path)).save(path)
    return path


@contextmanager
def _target(options: argparse.Namespace, report: Path) -> Iterator[Target]:
    if options.url:
        yield Target(options.url.rstrip("/"), options.token)
        return
    with tempfile.TemporaryDirectory(prefix="cellstate-load-") as folder:
        try:
            with serving(Path(folder), options.store.resolve()) as server:
                yield Target(server.url, server.token())
        finally:
            if (log := Path(folder) / "server.log").exists():
                shutil.copy(log, report / log.name)


def _locust(target: Target, answers: Path, report: Path, seconds: int, users: int) -> int:
    """Run Locust without its web page; its exit code."""
    totals = report / "totals.json"
    totals.unlink(missing_ok=True)
    run = ["--headless", "--only-summary", "--host", target.url, "--users", str(users), "--spawn-rate", str(users)]
    bounds = ["--run-time", f"{seconds}s", "--stop-timeout", str(GRACE)]
    files = ["--csv", str(report / "load"), "--html", str(report / "load.html"), "--expected", str(answers), "--totals", str(totals)]
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), *run, *bounds, *files]
    environment = {**os.environ, "LOADTEST_TOKEN": target.token}
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=seconds + GRACE + 60).returncode
    except subprocess.TimeoutExpired as e:
        raise HostError(f"Locust did not end {GRACE + 60} s after its time") from e


def _verdict(code: int, report: Path, answers: Expected) -> int:
    """One line, and the exit code: 0 only when something of every kind was asked and all of it was answered right."""
    file = report / "totals.json"
    totals: dict[str, Any] = orjson.loads(file.read_bytes()) if file.exists() else {"requests": {}, "failures": 0}
    asked = sum(totals["requests"].values())
    missing = [kind for kind in (KINDS if answers.streaming else [PREDICT]) if not totals["requests"].get(kind)]
    if code or totals["failures"] or missing:
        never = f", never asked: {', '.join(missing)}" if missing else ""
        print(f"load: FAILED: {totals['failures']:,} of {asked:,} requests{never} (Locust ended with {code}); see {report}")
        return 1
    speed = f"{totals['per_second']:,.0f} a second, median {totals['median_ms']:.0f} ms, 99 % within {totals['p99_ms']:.0f} ms"
    parity = f"largest difference {totals['largest_difference']:.1e}, allowed {answers.tolerance:.0e}"
    print(f"load: passed: {asked:,} requests, {speed}; every answer is the offline one ({parity}); see {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
