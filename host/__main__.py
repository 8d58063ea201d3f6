"""`python -m host`: serve the archives of a model store, and ask or end a server that runs."""

import argparse
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from handlers.errors import ConfigurationError
from handlers.settings import masked
from host import keys
from host.folder import stop
from host.ports import HostError, Ports, is_loopback
from host.torchserve.launcher import PRIVATE, TorchServe
from host.torchserve.management import failure
from host.watch import Watch

WATCH_INTERVAL = 2.0  # seconds between two looks at a running server


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ConfigurationError, HostError, OSError) as e:
        print(f"host: {e}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m host", description="Run a TorchServe over a model store.")
    verbs = parser.add_subparsers(required=True, metavar="serve | health | keys | stop")
    serve = verbs.add_parser("serve", help="start, stay up, drain on Ctrl-C or SIGTERM")
    serve.add_argument("--store", type=Path, default=Path("model_store"), help="folder with .mar archives (default: model_store)")
    serve.add_argument("--address", default="127.0.0.1", help="address of the inference port (default: loopback)")
    serve.add_argument("--port", type=int, default=8080, help="inference port; 0 picks a free one")
    serve.add_argument("--metrics-address", default="127.0.0.1", help="address of the metrics port")
    serve.add_argument("--metrics-port", type=int, default=8082, help="for Prometheus; 0 picks a free one")
    serve.add_argument("--logs", type=Path, help="folder of the log (default: the server's folder)")
    serve.add_argument("--keys", type=Path, help="file of the API keys, which servers may share (default: keys.json in the folder)")
    serve.add_argument("--no-auth", action="store_true", help="serve everybody who reaches the ports, without a key")
    serve.add_argument("--allow-anyone", action="store_true", help="with --no-auth, also on an address other than loopback")
    serve.add_argument("--drain", type=float, default=20.0, help="seconds that requests in flight get to finish")
    serve.set_defaults(run=_serve)
    verbs.add_parser("health", help="exit 0 when every model answers and reaches the session store").set_defaults(run=_health)
    verbs.add_parser("stop", help="end a server whose `serve` was killed").set_defaults(run=_stop)
    for verb in verbs.choices.values():
        verb.add_argument("--folder", type=Path, default=Path("run"), help="keeps configuration, log, keys and sessions (default: run)")
    keys.add_parser(verbs.add_parser("keys", help="add, list and revoke API keys"))
    return parser


def _serve(options: argparse.Namespace) -> int:
    os.umask(PRIVATE)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    server = _server(options)
    print(f"starting TorchServe with {', '.join(a.name for a in server.archives)}; log: {server.log}", flush=True)
    try:
        server.start(stopping=stopping)
    except HostError:
        if not stopping.is_set():
            raise
        print("stopped before it was ready", flush=True)
        return 0
    try:
        print(_greeting(server), flush=True)
        watch = Watch(server, lambda line: print(line, flush=True))
        while not stopping.wait(WATCH_INTERVAL):
            watch.look()
        print("stopping: no new requests, finishing those in flight …", flush=True)
    finally:
        drained = server.stop(options.drain)
    print("stopped" if drained else f"stopped; some requests were not finished after {options.drain:.0f} s", flush=True)
    return 0 if drained else 1


def _server(options: argparse.Namespace) -> TorchServe:
    if options.no_auth:
        _check_no_auth(options)
    return TorchServe(
        options.folder.resolve(),
        options.store.resolve(),
        options.address,
        Ports.free(options.port, options.metrics_port),
        options.metrics_address,
        logs=options.logs and options.logs.resolve(),
        keys=options.keys and options.keys.resolve(),
        authenticate=not options.no_auth,
    )


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


def _greeting(server: TorchServe) -> str:
    archive = server.archives[-1]
    streams = archive.signature["streaming"]["possible"]
    body = json.dumps(archive.example() | ({"session": {"id": "my-stream", "step": 0}} if streams else {}))
    return f"""ready at {server.url}
keys      {_keys_line(server)}
sessions  {masked(server.sessions)}
metrics   {server.metrics_url}
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


def _stop(options: argparse.Namespace) -> int:
    """End what is left of the server in the folder, without draining."""
    print("stopped" if stop(options.folder) else "not running")
    return 0


def _health(options: argparse.Namespace) -> int:
    """Ask every model that the server in the folder was started with for an answer that needs the session store."""
    server = _read(options.folder / "server.json")
    reasons = {model: failure(server["url"], model, request, server["headers"]) for model, request in server["models"].items()}
    failing = [f"{model} ({reason})" for model, reason in reasons.items() if reason]
    print(f"not healthy: {', '.join(failing)}" if failing else "healthy")
    return 1 if failing else 0


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON document that a running server keeps in its folder. Raises HostError when it is not there or broken."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return document
    except (OSError, ValueError) as e:
        raise HostError(f"no server was started in {path.parent}, or its {path.name} is gone ({e})") from e


if __name__ == "__main__":
    sys.exit(main())
