"""`python -m host.sessions http://… warm | backtest`: series of a file, streamed into sessions of a running server."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from cellstate import CellstateError, RetryEvent, RetryPolicy
from host.bulk import jobs, report
from host.bulk.backtest import Backtest, Plan, Scored
from host.bulk.jobs import Server
from host.bulk.series import SeriesError, Table, read
from host.bulk.streams import SeriesStream
from host.bulk.warm import Warmed, warm
from host.program import prefix, spelled

DONE, PROBLEMS, FAILED, INTERRUPTED = 0, 1, 2, 130  # exit codes
LEVELS = (80, 95)
MAX_SHOWN = 20  # errors


def main(arguments: Sequence[str] | None = None, connect: Callable[[argparse.Namespace], Server] | None = None) -> int:
    """Run the command line and return the exit code; `connect` makes the connection to the server."""
    options = _parser().parse_args(arguments)
    try:
        table = read(options.file, options.series, options.since)
        server = (connect or _connect)(options)
        try:
            return int(options.run(server, table, options))
        finally:
            server.close()
    except (SeriesError, CellstateError, OSError) as e:
        print(f"{prefix('host.sessions')}: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"{prefix('host.sessions')}: interrupted; the same command goes on where this one was", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=spelled("python -m host.sessions"), description="Series of a file, in sessions of a running server."
    )
    parser.add_argument("url", help="http://host:port")
    verbs = parser.add_subparsers(required=True, metavar="warm | backtest")
    warming = verbs.add_parser("warm", help="start a session for each series, with its history; again goes on where it was")
    _add_common(warming)
    warming.add_argument("--prefix", default="", help="of the sessions' ids, before the name of the series")
    warming.set_defaults(run=_warm)
    testing = verbs.add_parser("backtest", help="forecast each series from many of its rows, and score the forecasts by horizon")
    _add_common(testing)
    testing.add_argument("--horizon", type=_positive, default=24, help="steps of each forecast (default: 24)")
    testing.add_argument("--every", type=_positive, help="rows between two forecasts (default: the horizon)")
    testing.add_argument("--warm", type=_positive, default=0, help="rows before the first forecast (default: half of each series)")
    testing.add_argument("--season", type=_positive, default=1, help="steps after which the naive forecast repeats a value (default: 1)")
    testing.add_argument("--levels", type=_levels, default=LEVELS, help="of intervals, in percent, 80,95; empty for none (default: 80,95)")
    testing.add_argument("--target", type=_names, default=(), help="columns that are forecast (default: the only one)")
    testing.add_argument("--json", type=Path, help="where to write all scores")
    testing.add_argument("--plot", type=Path, help="where to draw error and coverage by horizon: .png or .svg")
    testing.set_defaults(run=_backtest)
    return parser


def _add_common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", type=Path, help=".csv, .csv.gz or .parquet: series, time, and a column for each value")
    verb.add_argument("--model", required=True, help="name, or name/version")
    verb.add_argument("--series", default="", metavar="COLUMN", help="the column of the series' names (default: series, if there is one)")
    verb.add_argument("--since", default="", metavar="TIME", help="leave earlier rows out")
    verb.add_argument("--key", type=Path, help="file of the API key")
    verb.add_argument("--rows", type=_positive, default=jobs.ROWS, help=f"series in one request (default: {jobs.ROWS})")
    verb.add_argument("--parallel", type=_positive, default=jobs.PARALLEL, help=f"requests at a time (default: {jobs.PARALLEL})")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(level) for level in text.split(",") if level)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"expected percentages such as 80,95, got {text!r}") from e


def _connect(options: argparse.Namespace) -> Server:
    return Server(options.url, options.model, options.key, RetryPolicy(deadline=300.0, timeout=60.0, on_retry=tell_of))


def tell_of(event: RetryEvent) -> None:
    """Say why a request is sent again: nothing else is seen of it for minutes."""
    if event.attempt % 10 == 3:  # the first ones pass by: a server that is busy refuses now and then
        print(f"{prefix('host.sessions')}: attempt {event.attempt} failed, trying again: {event.cause}", file=sys.stderr, flush=True)


class _Progress:
    """A line on standard error that tells how far the command is; called from any thread."""

    def __init__(self, verb: str, unit: str, count: int) -> None:
        self._verb, self._unit, self._count, self._overwrite = verb, unit, count, sys.stderr.isatty()
        self._lock, self._begun = Lock(), time.monotonic()
        self._shown = self._begun
        self._series, self._amount, self._failed = 0, 0, 0

    def add(self, amount: int, failed: bool) -> None:
        """Count one series that is done."""
        with self._lock:
            self._series, self._amount, self._failed = self._series + 1, self._amount + amount, self._failed + failed
            now = time.monotonic()
            if self._series == self._count or now - self._shown >= (0.2 if self._overwrite else 10.0):
                self._shown = now
                self._show(now - self._begun)

    def _show(self, seconds: float) -> None:
        rate = self._amount / max(seconds, 1e-9)
        amounts = (
            f"{self._series:,} of {self._count:,} series, {self._amount:,} {self._unit}, {rate:,.0f} a second, {self._failed:,} failed"
        )
        line = f"{self._verb}: {amounts}"
        end = "\n" if not self._overwrite or self._series == self._count else ""
        print(f"\r{line}" if self._overwrite else line, end=end, file=sys.stderr, flush=True)


def _warm(server: Server, table: Table, options: argparse.Namespace) -> int:
    results, progress = list[Warmed](), _Progress("warm", "rows", len(table.series))

    def done(one: Warmed) -> None:
        results.append(one)
        progress.add(one.rows, bool(one.error))

    streams = (SeriesStream(series, table.columns, options.prefix + series.name) for series in table.series)
    jobs.run(server, map(warm, streams), done, options.rows, options.parallel)
    failed = _show_errors([(one.name, one.error) for one in results if one.error])
    rows, current = sum(one.rows for one in results), sum(1 for one in results if not one.rows and not one.error)
    print(f"{rows:,} rows sent to {len(results) - failed - current:,} sessions; {current:,} had all of theirs; {failed:,} failed")
    return PROBLEMS if failed else DONE


def _backtest(server: Server, table: Table, options: argparse.Namespace) -> int:
    targets = options.target or table.columns
    if not set(targets) <= set(table.columns) or (len(targets) > 1 and not options.target):
        raise SeriesError(f"--target: name the columns that the model forecasts, of {', '.join(table.columns)}")
    if any(not 1 <= level <= 99 for level in options.levels):
        raise SeriesError("--levels: expected 1 to 99 percent")
    plan = Plan(targets, options.horizon, options.every or options.horizon, options.warm, options.season, options.levels)
    backtest, scored, progress = Backtest(table, plan), list[Scored](), _Progress("backtest", "forecasts", len(table.series))

    def done(one: Scored) -> None:
        scored.append(one)
        progress.add(one.origins, bool(one.error))

    jobs.run(server, (backtest.job(i, series) for i, series in enumerate(table.series)), done, options.rows, options.parallel)
    failed, found = _show_errors([(one.name, one.error) for one in scored if one.error]), report.document(backtest, scored)
    if found["forecasts"]:
        print(report.table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.plot and found["forecasts"]:
        report.plot(found, options.plot)
    return PROBLEMS if failed or not found["forecasts"] else DONE


def _show_errors(errors: Sequence[tuple[str, str]]) -> int:
    for name, error in errors[:MAX_SHOWN]:
        print(f"{name}: {error}", file=sys.stderr)
    if len(errors) > MAX_SHOWN:
        print(f"… and {len(errors) - MAX_SHOWN:,} more", file=sys.stderr)
    return len(errors)
