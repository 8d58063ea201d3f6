"""How long one-step requests wait beside clients that ask for much: `python -m benchmarks.fairness`.

The traffic model under TorchServe as shipped, with one worker and with two. One client steps its session, a step at a time: alone, beside
eight clients that ask for a horizon of 1,000, and beside three that send 5,000 steps at once. Those send the next request as soon as one is
answered, and repeat after a pause what was answered 429. Reported are the milliseconds of the steps, and how often their p99 alone fits
into their p99 beside neighbours. Client and neighbours run on the server's cores, each neighbour in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import httpx
import numpy as np

from host.archives import Archive, find
from host.torchserve.launcher import TorchServe, serving

ROOT = Path(__file__).parents[1]
HORIZON, STEPS = 1_000, 5_000
PAUSE = 0.1  # seconds before a neighbour repeats what was answered 429
GOAL = 10.0  # ratio to the p99 of a client alone


@dataclass(frozen=True)
class Neighbours:
    """Clients that send one body over and over."""

    name: str
    count: int
    body: bytes


@dataclass(frozen=True)
class Waited:
    """Milliseconds of one-step requests, and what neighbours were answered meanwhile."""

    steps: int
    p50: float
    p99: float
    longest: float
    answered: int
    refused: int


def neighbours(archive: Archive) -> list[Neighbours]:
    features = len(archive.signature["inputs"]["features"])
    known = features - len(archive.signature["feedback"])
    rows = np.zeros((STEPS, features)).tolist()
    forecast = {"inputs": rows[:1], "horizon": HORIZON, "future": np.zeros((HORIZON, known)).tolist()}
    return [
        Neighbours("alone", 0, b""),
        Neighbours(f"8 x horizon {HORIZON:,}", 8, json.dumps(forecast).encode()),
        Neighbours(f"3 x {STEPS:,} steps", 3, json.dumps({"inputs": rows}).encode()),
    ]


def ask_much(url: str, headers: Mapping[str, str], body: bytes, answered: "Synchronized[int]", refused: "Synchronized[int]") -> None:
    """Send the body until the process is ended."""
    with httpx.Client(headers=dict(headers), timeout=120) as client:
        while True:
            status = client.post(url, content=body).status_code
            if status not in (200, 429):
                raise RuntimeError(f"a neighbour was answered {status}")
            counter = answered if status == 200 else refused
            with counter.get_lock():
                counter.value += 1
            if status == 429:
                time.sleep(PAUSE)


@contextmanager
def asking_much(url: str, headers: Mapping[str, str], who: Neighbours) -> Iterator[tuple["Synchronized[int]", "Synchronized[int]"]]:
    context = multiprocessing.get_context("spawn")
    answered, refused = context.Value("i", 0), context.Value("i", 0)
    arguments = (url, headers, who.body, answered, refused)
    processes = [context.Process(target=ask_much, args=arguments, daemon=True) for _ in range(who.count)]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + 120
        while who.count and not answered.value:
            if time.monotonic() > deadline or not any(process.is_alive() for process in processes):
                raise RuntimeError(f"{who.name}: no neighbour was answered")
            time.sleep(0.05)
        yield answered, refused
    finally:
        for process in processes:
            process.kill()
            process.join()


def waited(server: TorchServe, url: str, who: Neighbours, seconds: float) -> Waited:
    """Step one session for so long beside neighbours."""
    row, position, taken = [server.archives[0].example()["inputs"][0]], 0, []
    session = f"quiet-{time.time_ns()}"
    with asking_much(url, server.headers(), who) as counters, httpx.Client(headers=server.headers(), timeout=120) as client:
        before = [counter.value for counter in counters]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            response = client.post(url, json={"inputs": row, "session": {"id": session, "step": position}})
            taken.append(1e3 * (time.perf_counter() - began))
            response.raise_for_status()
            position += 1
        answered, refused = (counter.value - old for counter, old in zip(counters, before, strict=True))
    p50, p99 = np.percentile(taken, (50, 99))
    return Waited(len(taken), float(p50), float(p99), max(taken), answered, refused)


def measure(store: Path, workers: int, seconds: float) -> bool:
    """Print a table for one number of workers; whether the goal was reached."""
    options = {"minWorkers": workers, "maxWorkers": workers}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "run", store, model_options=options) as server:
        url, reached, quiet = f"{server.url}/predictions/{server.archives[0].name}", True, 0.0
        for who in neighbours(server.archives[0]):
            found = waited(server, url, who, seconds)
            quiet = quiet or found.p99
            reached = reached and found.p99 <= GOAL * quiet
            print(
                f"{workers} workers  {who.name:<20} p50 {found.p50:7.1f} ms  p99 {found.p99:7.1f} ms  longest {found.longest:7.1f} ms  "
                f"ratio {found.p99 / quiet:5.1f}  ({found.steps} steps; neighbours: {found.answered} answered, {found.refused} refused)",
                flush=True,
            )
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as store:
        [archive] = [found for found in find(ROOT / "model_store") if found.name == "traffic"]
        (Path(store) / archive.path.name).symlink_to(archive.path.resolve())
        reached = [measure(Path(store), workers, options.seconds) for workers in options.workers]
    print(f"goal, at most {GOAL:.0f} times the p99 alone: {'reached' if all(reached) else 'not reached'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
