"""The load test for Locust: `locust -f loadtests/locustfile.py --host URL`, with the token in LOADTEST_TOKEN.

The user classes are the scenarios of `loadtests.load.scenarios`. With `--rate`, `--trace` or `--sessions` requests are sent when they are
due (open loop), and Locust's users are connections. See docs/loadtest.md.
"""

import sys
from argparse import ArgumentParser
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.load.options import add_options
from loadtests.load.users import (  # noqa: F401  # Locust finds the classes here
    BulkUser,
    ChurnUser,
    ClientStateUser,
    ForecastUser,
    HostileUser,
    KserveV1User,
    OpenInferenceBinaryUser,
    OpenInferenceBulkUser,
    OpenInferenceStreamUser,
    OpenInferenceUser,
    PredictHiddenUser,
    PredictUser,
    StreamUser,
)
from loadtests.load.wiring import ENDED, Run


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust has no types
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    add_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    try:
        run = Run(environment)
    except (OSError, LookupError, ValueError) as e:  # no archive, or one whose answers tell nothing
        sys.exit(f"load: {e}")
    on = environment.events
    on.test_start.add_listener(lambda **_: run.start())
    on.test_stopping.add_listener(lambda **_: run.stop())
    if isinstance(environment.runner, WorkerRunner):
        on.report_to_master.add_listener(lambda client_id, data: run.report(data))
        return
    on.worker_report.add_listener(lambda client_id, data: run.received(data))
    on.quitting.add_listener(lambda **_: run.write())
    if isinstance(environment.runner, MasterRunner):
        environment.runner.register_message(ENDED, run.worker_ended)
    gevent.spawn(run.show_progress)
