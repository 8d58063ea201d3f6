"""`python -m loadtests.chaos --url … --token … --record FILE`: do to sessions what clients and networks do, and record all of it.

The client retries after timeouts, sends duplicates at once and late, lets clients compete, forks, rewinds, asks what-ifs, exports, imports
and closes, over every URL without stickiness. The record is judged by `python -m loadtests.oracle`.
"""

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from host.archives import find
from host.program import spelled
from loadtests.chaos.caller import Caller, Server
from loadtests.chaos.streams import Partition, Stream, opening
from loadtests.history import Recorder
from loadtests.offline import Array, OfflineModel, pool

GRACE = 30.0  # seconds after the end in which open requests are settled


async def play(
    servers: Sequence[Server],
    model: str,
    rows: Array,
    recorder: Recorder,
    sessions: int,
    requests: int,
    seconds: float,
    seed: int,
    names: str,
) -> None:
    """Drive `sessions` streams of about `requests` moves each for `seconds`; return when every request is settled.

    The sessions' ids begin with `names`, which no other run of the same tenant on the same store may have used.
    """
    draw = random.Random(seed)
    stop = time.monotonic() + seconds
    async with Caller(servers, model, rows, recorder, stop + GRACE) as caller:

        async def drive(number: int, wait: float) -> None:
            await asyncio.sleep(wait)
            partition = Partition(f"{names}-{number}", stop)
            partition.start(Stream(caller, partition, partition.name, f"{seed} {number}", len(rows), requests).run(opening(number)))
            await partition.finish()

        await asyncio.gather(*(drive(number, draw.uniform(0, seconds / 5)) for number in range(sessions)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Record a history and return the exit code."""
    options = _options(arguments)
    archive = {archive.name: archive.path for archive in find(options.store)}.get(options.model)
    if archive is None:
        print(f"chaos: {options.store} has no archive of {options.model!r}", file=sys.stderr)
        return 2
    model = OfflineModel(archive)
    rows, servers = pool(model, options.seed), [Server(url, token) for url, token in zip(options.url, options.token, strict=True)]
    head = {"model": options.model, "digest": model.digest, "pool": options.seed, "urls": options.url}
    with Recorder(options.record, head) as recorder:
        play_all = play(
            servers, options.model, rows, recorder, options.sessions, options.requests, options.seconds, options.seed, options.names
        )
        asyncio.run(play_all)
    print(spelled(f"chaos: recorded in {options.record}; judge it: python -m loadtests.oracle {options.record} --store {options.store}"))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=spelled("python -m loadtests.chaos"), description="Record what a deployment answers to rough clients."
    )
    parser.add_argument("--url", action="append", required=True, help="of a server; several share one store of sessions")
    parser.add_argument("--token", action="append", required=True, help="API key, one for all or one a URL; @FILE: the file that holds it")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="folder with the model's archive (default: model_store)")
    parser.add_argument("--model", default="traffic")
    parser.add_argument("--sessions", type=int, default=200, help="streams; forks and imports come on top")
    parser.add_argument("--requests", type=int, default=60, help="moves of one stream and its forks (default: 60)")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--names", default=secrets.token_hex(3), help="what the sessions' ids begin with (default: drawn)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, required=True, help="the history; it must not exist yet")
    options = parser.parse_args(arguments)
    if len(options.token) == 1:
        options.token *= len(options.url)
    if len(options.token) != len(options.url):
        parser.error(f"--token: {len(options.token)} for {len(options.url)} URLs; give one for all, or one each")
    if options.record.exists():
        parser.error(f"--record: {options.record} exists; a history begins with an empty file")
    return options
