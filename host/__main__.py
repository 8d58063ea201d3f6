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

from handlers.settings import masked
from host.folder import stop
from host.ports import HostError, Ports
from host.torchserve.launcher import PRIVATE, TorchServe
from host.torchserve.management import failure
from host.watch import Watch

WATCH_INTERVAL = 2.0  # seconds between two looks at a running server


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (HostError, OSError) as e:
        print(f"host: {e}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m host", description="Run a TorchServe over a model store.")
    verbs = parser.add_subparsers(required=True, metavar="serve | health | token | stop")
    serve = verbs.add_parser("serve", help="start, stay up, drain on Ctrl-C or SIGTERM")
    serve.add_argument("--store", type=Path, default=Path("model_store"), help="folder with .mar archives (default: model_store)")
    serve.add_argument("--address", default="127.0.0.1", help="address of the inference port (default: loopback)")
    serve.add_argument("--port", type=int, default=8080, help="inference port; 0 picks a free one")
    serve.add_argument("--metrics-address", default="127.0.0.1", help="address of the metrics port, which asks for no token")
    serve.add_argument("--metrics-port", type=int, default=8082, help="for Prometheus; 0 picks a free one")
    serve.add_argument("--logs", type=Path, help="folder of the log (default: the server's folder)")
    serve.add_argument("--drain", type=float, default=20.0, help="seconds that requests in flight get to finish")
    serve.set_defaults(run=_serve)
    verbs.add_parser("health", help="exit 0 when every model answers and reaches the session store").set_defaults(run=_health)
    verbs.add_parser("token", help="print the token for predictions").set_defaults(run=_token)
    verbs.add_parser("stop", help="end a server whose `serve` was killed").set_defaults(run=_stop)
    for verb in verbs.choices.values():
        verb.add_argument("--folder", type=Path, default=Path("run"), help="keeps configuration, log, tokens and sessions (default: run)")
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
    return TorchServe(
        options.folder.resolve(),
        options.store.resolve(),
        options.address,
        Ports.free(options.port, options.metrics_port),
        options.metrics_address,
        logs=options.logs and options.logs.resolve(),
    )


def _greeting(server: TorchServe) -> str:
    archive = server.archives[-1]
    streams = archive.signature["streaming"]["possible"]
    body = json.dumps(archive.example() | ({"session": {"id": "my-stream", "step": 0}} if streams else {}))
    token = f"python -m host token --folder {shlex.quote(str(server.folder))}"
    return f"""ready at {server.url}
token     {server.folder / "key_file.json"}
sessions  {masked(server.sessions)}
metrics   {server.metrics_url}
try       curl -s {server.url}/predictions/{archive.name} -H "Authorization: Bearer $({token})" \\
            -H 'Content-Type: application/json' -d '{body}'
Ctrl-C drains and stops."""


def _token(options: argparse.Namespace) -> int:
    print(_read(options.folder / "key_file.json")["inference"]["key"])
    return 0


def _stop(options: argparse.Namespace) -> int:
    """End what is left of the server in the folder, without draining."""
    print("stopped" if stop(options.folder) else "not running")
    return 0


def _health(options: argparse.Namespace) -> int:
    """Ask every model that the server in the folder was started with for an answer that needs the session store."""
    server, keys = _read(options.folder / "server.json"), _read(options.folder / "key_file.json")
    headers = {"Authorization": f"Bearer {keys['inference']['key']}"}
    reasons = {model: failure(server["url"], model, request, headers) for model, request in server["models"].items()}
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
