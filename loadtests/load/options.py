"""The options that a load test adds to Locust's."""

from argparse import ArgumentParser, Namespace

from loadtests.load.scenarios import SCENARIOS
from loadtests.load.transport import Target


def add_options(parser: ArgumentParser) -> None:
    """Add the options of a load test to Locust's."""
    add = parser.add_argument
    add("--store", default="model_store", help="folder with the served archive; answers are compared with its offline run")
    add("--model", default="", help="the model's name (default: traffic, else the first one that streams)")
    add("--expected", default="", help="file with sequences and offline answers (default: computed now from the archive)")
    add("--token", env_var="LOADTEST_TOKEN", is_secret=True, default="", help="API key")
    add("--insecure", action="store_true", default=False, help="accept any certificate")
    add("--authority", default="", help="file with the certificates to trust")
    add("--totals", default="", help="file for all numbers of the run, as JSON")
    add("--scenarios", default="", help=f"mix by weight, such as stream=3,predict=1; of {', '.join(SCENARIOS)}")
    add("--rate", default="", help="open loop: requests a second; a number, ramp:A:B, steps:A:B:…, spike:A:B or diurnal:A:B")
    add("--evenly", action="store_true", default=False, help="open loop: arrivals evenly spaced instead of a Poisson process")
    add("--trace", default="", help="open loop: file of recorded arrivals, seconds since the start, one a line")
    add("--sessions", type=int, default=0, help="open loop: a population of so many sessions, fed one observation at a time")
    add("--cadence", type=float, default=10.0, help="seconds between two observations of a session")
    add("--jitter", type=float, default=0.1, help="share of the cadence by which an observation may be early or late")
    add("--duration", type=float, default=30.0, help="open loop: seconds of arrivals, after the warm-up")
    add("--warm-up", type=float, default=0.0, help="seconds at the start that are left out of the results")
    add(
        "--retry-seconds",
        type=float,
        default=0.0,
        help="how long a request that failed and may be repeated is repeated; each failure is counted",
    )
    add("--seed", type=int, default=0)


def target_of(url: str, model: str, options: Namespace) -> Target:
    """Return where the requests go."""
    return Target(url.rstrip("/"), model, options.token, options.insecure, options.authority)


def open_loop_asked(options: Namespace) -> bool:
    """Whether requests are sent when they are due instead of when the one before is answered."""
    return bool(options.rate or options.trace or options.sessions)
