"""`python -m host`: serve the archives of a model store, and ask or end a server that runs."""

import argparse
import json
import os
import shlex
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handlers.errors import ConfigurationError
from handlers.settings import masked
from host import VERSION, deploy, keys
from host.open_files import raise_limit
from host.ports import HostError, Ports, is_loopback
from host.program import prefix, spelled
from host.running import RunningServer, record_command, stop
from host.table import align
from host.torchserve.launcher import TorchServe
from host.torchserve.process import PRIVATE, in_container
from host.watch import Watch

WATCH_INTERVAL = 2.0  # seconds between two looks at a running server
DRAIN = 20.0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ConfigurationError, HostError, OSError) as e:
        print(f"{prefix('host')}: {spelled(str(e))}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=spelled("python -m host"), description="Run a TorchServe over a model store.")
    parser.add_argument("--version", action="version", version=f"cellstate {VERSION}")
    verbs = parser.add_subparsers(required=True, metavar="serve | deploy | rollback | retire | models | status | health | keys | stop")
    _add_serve(verbs.add_parser("serve", help="start, stay up, drain on Ctrl-C or SIGTERM"))
    status = verbs.add_parser("status", help="print addresses, models, versions, workers, queues and uptime")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_status)
    verbs.add_parser("health", help="exit 0 when every model answers and reaches the session store").set_defaults(run=_health)
    end = verbs.add_parser("stop", help="drain and end a server")
    end.add_argument("--now", action="store_true", help="do not drain")
    end.add_argument("--drain", type=float, default=DRAIN, help="seconds that requests in flight get to finish")
    end.set_defaults(run=_stop)
    for verb in verbs.choices.values():
        verb.add_argument("--folder", type=Path, default=Path("run"), help="keeps configuration, log, keys and sessions (default: run)")
    deploy.add_parsers(verbs)
    keys.add_parser(verbs.add_parser("keys", help="add, list and revoke API keys"))
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--store", type=Path, default=Path("model_store"), help="folder with .mar archives (default: model_store)")
    serve.add_argument("--strict", action="store_true", help="do not start when an archive cannot be read; otherwise it is left out")
    serve.add_argument("--address", default="127.0.0.1", help="address of the inference port (default: loopback)")
    serve.add_argument("--port", type=int, default=8080, help="inference port; 0 picks a free one")
    serve.add_argument("--metrics-address", default="127.0.0.1", help="address of the metrics port")
    serve.add_argument("--metrics-port", type=int, default=8082, help="for Prometheus; 0 picks a free one")
    serve.add_argument("--logs", type=Path, help="folder of the log (default: the server's folder)")
    serve.add_argument("--log-format", choices=("text", "json"), default="text", help="of what the workers log (default: text)")
    serve.add_argument("--access-log", choices=("none", "errors", "all"), help="which requests are logged (default: as log_requests says)")
    serve.add_argument(
        "--log-stdout",
        action=argparse.BooleanOptionalAction,
        default=in_container(),
        help="log to standard output, too (default: in a container)",
    )
    serve.add_argument("--keys", type=Path, help="file of the API keys, which servers may share (default: keys.json in the folder)")
    serve.add_argument("--no-auth", action="store_true", help="serve everybody who reaches the ports, without a key")
    serve.add_argument("--allow-anyone", action="store_true", help="with --no-auth, also on an address other than loopback")
    serve.add_argument("--drain", type=float, default=DRAIN, help="seconds that requests in flight get to finish")
    serve.add_argument("--workers", type=_count, help="processes of each model (default: as the archive says)")
    serve.add_argument("--batch-size", type=_count, help="requests of one batch (default: as the archive says)")
    serve.add_argument("--max-batch-delay", type=_count, help="milliseconds that a batch waits to fill (default: as the archive says)")
    serve.add_argument("--queue", type=_count, help="requests that may wait for a model (default: 1000)")
    serve.set_defaults(run=_serve)


def _count(text: str) -> int:
    """Parse a number from 1 up: TorchServe would take a delay of 0 for 100 milliseconds."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    os.umask(PRIVATE)
    raise_limit()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    server = _server(options)
    say = _say_as_json if server.console == "json" else _say
    say(f"starting TorchServe with {', '.join(a.address for a in server.archives)}; log: {server.log}")
    server.launch()
    drain = 0.0  # nothing to drain before it is ready
    try:
        record_command(server.folder)
        server.wait_ready(stopping=stopping)
        drain = options.drain
        say(_greeting(server))
        watch = Watch(server, say)
        while not stopping.wait(WATCH_INTERVAL):
            server.refresh()
            watch.look()
        say("stopping: no new requests, finishing those in flight …")
    except HostError:
        if not stopping.is_set():
            raise
        say("stopped before it was ready")
        return 0
    finally:
        drained = server.stop(drain)
    say("stopped" if drained else f"stopped; some requests were not finished after {drain:.0f} s")
    return 0 if drained else 1


def _server(options: argparse.Namespace) -> TorchServe:
    if options.no_auth:
        _check_no_auth(options)
    chosen = {
        "minWorkers": options.workers,
        "maxWorkers": options.workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": options.max_batch_delay,
    }
    return TorchServe(
        options.folder.resolve(),
        options.store.resolve(),
        options.address,
        Ports.free(options.port, options.metrics_port),
        options.metrics_address,
        logs=options.logs and options.logs.resolve(),
        keys=options.keys and options.keys.resolve(),
        authenticate=not options.no_auth,
        model_options={name: value for name, value in chosen.items() if value is not None},
        queue_size=options.queue,
        console=options.log_format if options.log_stdout else "",
        environment={"CELLSTATE_LOG_FORMAT": options.log_format} | _access_log(options),
        skipped=None if options.strict else lambda message: print(f"{prefix('host')}: left out: {spelled(message)}", file=sys.stderr),
    )


def _access_log(options: argparse.Namespace) -> dict[str, str]:
    return {} if options.access_log is None else {"CELLSTATE_LOG_REQUESTS": options.access_log}


def _check_no_auth(options: argparse.Namespace) -> None:
    """Warn of what --no-auth does. Raises HostError where others than this machine's users would be served."""
    exposed = [address for address in (options.address, options.metrics_address) if not is_loopback(address)]
    if exposed and not options.allow_anyone:
        raise HostError(
            f"--no-auth at {exposed[0]} would serve everybody on the network, their sessions and metrics included: leave it out, use a "
            f"loopback address, or insist with --allow-anyone"
        )
    who = "everybody who reaches this machine" if exposed else "every user of this machine"
    print(f"WARNING: --no-auth: {who} may send any request and read, change and close every session", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)


def _say_as_json(text: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(json.dumps({"time": now, "level": "INFO", "event": "host", "message": text}), flush=True)


def _greeting(server: TorchServe) -> str:
    archive = server.archives[-1]
    streams = archive.signature["streaming"]["possible"]
    body = json.dumps(archive.example() | ({"session": {"id": "my-stream", "step": 0}} if streams else {}))
    return f"""ready at {server.url}
keys      {_keys_line(server)}
sessions  {masked(server.sessions)}
metrics   {server.metrics_url}
manage    {server.management_socket}
try       curl -s {server.url}/predictions/{archive.name}{_key_header(server)} \\
            -H 'Content-Type: application/json' -d '{body}'
Ctrl-C drains and stops."""


def _keys_line(server: TorchServe) -> str:
    if not server.authenticate:
        return "none: every request is served"
    first = f"; a key for every request: {server.first_key}" if server.first_key.exists() else ""
    return f"{server.key_file}{first}"


def _key_header(server: TorchServe) -> str:
    """The header with the key, as a shell writes it."""
    if not server.authenticate:
        return ""
    key = f"$(cat {shlex.quote(str(server.first_key))})" if server.first_key.exists() else "$KEY"
    return f' -H "Authorization: Bearer {key}"'


def _status(options: argparse.Namespace) -> int:
    status = RunningServer.of(options.folder).status()
    print(json.dumps(status) if options.json else _status_text(status))
    return 0


def _status_text(status: dict[str, Any]) -> str:
    models = status.pop("models")
    lines = [f"{name:<10}  {value}" for name, value in status.items()]
    return "\n".join([*lines, "", *align([[*models[0]], *([*model.values()] for model in models)])])


def _health(options: argparse.Namespace) -> int:
    """Ask every model that the server in the folder was started with for an answer that needs the session store."""
    failures = RunningServer.of(options.folder).failures()
    print(f"not healthy: {', '.join(f'{model} ({reason})' for model, reason in failures.items())}" if failures else "healthy")
    return 1 if failures else 0


def _stop(options: argparse.Namespace) -> int:
    print("stopped" if stop(options.folder, options.drain, options.now) else "not running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
