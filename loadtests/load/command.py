"""`python -m loadtests [run|capacity|compare|ceiling]`: load a deployment and check every answer, or find what it carries.

`compare` takes two results, and `ceiling` measures the load generator itself.
Exit code of a run: 0 passed, 1 failed, 2 could not begin, 3 not measured (the load generator was the limit).
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path

from host.archives import find
from host.ports import HostError
from host.program import spelled
from loadtests.load import faults, objectives
from loadtests.load.arrivals import profile
from loadtests.load.capacity import search
from loadtests.load.ceiling import ceiling, sentence
from loadtests.load.compare import compare, printed
from loadtests.load.report.page import write_report
from loadtests.load.result import Result, load
from loadtests.load.running import Deployment, Plan, RunFailed, deployed, run
from loadtests.load.scenarios import SCENARIOS, parse_mix
from loadtests.load.selection import choose

ERRORS = (HostError, RunFailed, OSError, ValueError, LookupError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"run": _run, "capacity": _capacity, "compare": _compare, "ceiling": _ceiling}
    name = given.pop(0) if given and given[0] in commands else "run"
    # The server that was started must not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return commands[name](given)
    except ERRORS as e:
        print(f"load: {spelled(str(e))}", file=sys.stderr)
        return 2


def _run(arguments: Sequence[str]) -> int:
    parser = _parser("run", "Load a deployment and check every answer.")
    parser.add_argument("--objectives", type=Path, default=objectives.DEFAULT, help="TOML file of what has to be kept")
    parser.add_argument("--faults", type=Path, help="TOML file of what is done to the deployment meanwhile")
    options = _parsed(parser, arguments)
    plan, report = _plan(options), _folder(options)
    wanted = objectives.read(options.objectives)
    with _deployed(options, report) as deployment:
        _announce(plan, deployment)
        result = run(plan, deployment, report, wanted, _kinds(plan))
    return _finish(result, report)


def _capacity(arguments: Sequence[str]) -> int:
    parser = _parser("capacity", "Find the most sessions, or the highest rate, that keep a bound.")
    parser.set_defaults(warm_up=5.0)  # sessions that all begin at once are no load that lasts
    parser.add_argument("--slo", default="p99<100ms, errors=0, wrong=0", help="the bound (default: %(default)s)")
    parser.add_argument("--of", choices=("sessions", "rate"), default="sessions", help="what to find (default: %(default)s)")
    parser.add_argument("--start", type=float, default=500.0, help="where the search begins (default: %(default)g)")
    parser.add_argument("--precision", type=float, default=0.1, help="share within which the answer is to be found (default: %(default)g)")
    options = _parsed(parser, arguments)
    report = _folder(options)
    with _deployed(options, report) as deployment:
        found = search(_plan(options), deployment, report, objectives.parse(options.slo), options.of, options.start, options.precision)
    print(f"load: {found.sentence}")
    if found.confirmation is not None:
        write_report(found.confirmation, report / "report.html", found.sentence)
    return 0 if found.carried else 1


def _compare(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=spelled("python -m loadtests compare"), description="Say what changed between two runs, and what is noise."
    )
    parser.add_argument("before", type=Path, help="a result.json")
    parser.add_argument("after", type=Path, help="a result.json")
    options = parser.parse_args(arguments)
    print(printed(compare(load(options.before), load(options.after))))
    return 0


def _ceiling(arguments: Sequence[str]) -> int:
    options = _parsed(_parser("ceiling", "Measure the load generator against a server that does nothing."), arguments)
    print(f"load: {sentence(ceiling(_plan(options), _folder(options)), options.processes)}")
    return 0


def _finish(result: Result, report: Path) -> int:
    """Write and print the outcome; return the exit code."""
    result.write(report)
    write_report(result, report / "report.html")
    for finding in result.findings:
        print(f"load: {finding.name}: {finding.sentence}")
    for limit in result.limits:
        print(f"load: generator: {limit}")
    for event in result.events:
        print(f"load: fault: {event.what}, from second {event.at:.1f} to {event.until:.1f}")
    if result.events:
        print(f"load: under faults: {result.integrity()}")
    print(f"load: {result.sentence()}; see {report / 'report.html'}")
    return result.code


def _announce(plan: Plan, deployment: Deployment) -> None:
    if plan.sessions:
        what = f"{plan.sessions:,} sessions, one observation every {plan.cadence:g} s each"
    elif plan.open_loop:
        what = f"requests due at {plan.rate or plan.trace}"
    else:
        what = f"{plan.users} users, each request after the last answer"
    print(f"load: {what}, for {plan.seconds:g} s on {plan.model} at {deployment.url}", flush=True)


def _kinds(plan: Plan) -> list[str]:
    """Return the scenarios of which something must have been asked."""
    if plan.sessions:
        return ["stream"]
    if plan.trace or plan.open_loop:
        return []
    archive = choose(find(plan.store), plan.model)
    possible, forecasts = archive.signature["streaming"]["possible"], bool(archive.signature.get("feedback"))
    return [
        name
        for name in parse_mix(plan.scenarios)
        if (possible or not SCENARIOS[name].sessions) and ((possible and forecasts) or not SCENARIOS[name].forecasts)
    ]


# Options.


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=spelled(f"python -m loadtests {command}"), description=description)
    add = parser.add_argument
    add("--store", type=Path, default=Path("model_store"), help="folder with .mar archives (default: %(default)s)")
    add("--model", default="", help="its name (default: traffic, else the first that streams)")
    add("--url", default="", help="a running server of the same archives; default: start one")
    add("--token", default="", help="API key for that server; @FILE reads it from a file")
    add("--metrics", default="", help="URL of that server's Prometheus metrics, to show beside the client's numbers")
    add("--insecure", action="store_true", help="accept any certificate")
    add("--authority", default="", help="file with the certificates to trust")
    add("--seconds", type=float, default=30.0, help="length of the measurement (default: %(default)g)")
    add("--warm-up", type=float, default=0.0, help="seconds before it that are left out (default: %(default)g)")
    add("--users", type=int, default=0, help="closed loop: requests in flight (default: 32); open loop: connections (default: 256)")
    add("--processes", type=int, default=1, help="generator processes (default: %(default)d)")
    add("--scenarios", default="", help=f"mix by weight, such as stream=3,predict=1; of {', '.join(SCENARIOS)}")
    add("--rate", default="", help="open loop at a rate: a number, ramp:A:B, steps:A:B:…, spike:A:B or diurnal:A:B")
    add("--evenly", action="store_true", help="arrivals evenly spaced instead of a Poisson process")
    add("--trace", default="", help="open loop with recorded arrivals: a file of seconds, one a line")
    add("--sessions", type=int, default=0, help="open loop with a population of sessions")
    add("--cadence", type=float, default=10.0, help="seconds between two observations of a session (default: %(default)g)")
    add(
        "--jitter", type=float, default=0.1, help="share of the cadence by which an observation may be early or late (default: %(default)g)"
    )
    add("--retry-seconds", type=float, default=0.0, help="repeat what failed and may be repeated for so long; each failure is counted")
    add("--seed", type=int, default=0)
    add("--expected", default="", help="file of sequences and offline answers (default: run the model offline now)")
    add("--report", type=Path, default=Path("out/load"), help="folder of the reports (default: %(default)s)")
    return parser


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    if options.url and not options.token:
        parser.error("--url needs --token: an API key, or @ and the name of a file that holds one")
    parse_mix(options.scenarios)
    if options.rate:
        profile(options.rate, options.seconds)
    return options


def _plan(options: argparse.Namespace) -> Plan:
    given = {f.name: getattr(options, f.name) for f in fields(Plan) if hasattr(options, f.name) and f.name != "faults"}
    store = options.store.resolve()
    given |= {"store": store, "model": choose(find(store), options.model).name}
    if getattr(options, "faults", None):
        given["faults"] = tuple(faults.read(options.faults))
    plan = Plan(**given)
    users = options.users or (256 if plan.open_loop else 32)
    return Plan(**{**given, "users": users, "expected": str(Path(options.expected).resolve()) if options.expected else ""})


def _folder(options: argparse.Namespace) -> Path:
    report: Path = options.report.resolve()
    report.mkdir(parents=True, exist_ok=True)
    return report


def _deployed(options: argparse.Namespace, report: Path) -> AbstractContextManager[Deployment]:
    return deployed(options.store.resolve(), report, options.url, options.token, options.metrics)
