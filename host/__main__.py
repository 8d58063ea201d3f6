"""`python -m host`: serve the archives of a model store, or ask a running server for its health."""

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from handlers.settings import masked
from host.archives import find
from host.folder import stop
from host.ports import HostError, Ports
from host.torchserve.launcher import TorchServe, answers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m host", description="Run a real TorchServe over a model store.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser("serve", help="start, stay up, drain on Ctrl-C or SIGTERM")
    serve.add_argument("--store", type=Path, default=Path("model_store"), help="folder with .mar archives (default: model_store)")
    serve.add_argument("--folder", type=Path, help="keeps configuration, log, tokens and sessions (default: run)", default=Path("run"))
    serve.add_argument("--address", default="127.0.0.1", help="address of the inference port (default: loopback)")
    serve.add_argument("--port", type=int, default=8080, help="inference port; 0 picks a free one")
    serve.add_argument(
        "--metrics-address", default="127.0.0.1", help="address of the metrics port, which asks for no token (default: loopback)"
    )
    serve.add_argument("--metrics-port", type=int, default=8082, help="for Prometheus; 0 picks a free one")
    serve.add_argument("--drain", type=float, default=20.0, help="seconds that requests in flight get to finish")
    health = verbs.add_parser("health", help="exit 0 when every model answers a prediction")
    health.add_argument("--folder", type=Path, default=Path("run"))
    end = verbs.add_parser("stop", help="end a server whose `serve` was killed")
    end.add_argument("--folder", type=Path, default=Path("run"))
    options = parser.parse_args(arguments)
    try:
        return {"serve": _serve, "health": _health, "stop": _stop}[options.verb](options)
    except (HostError, OSError) as e:
        print(f"host: {e}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    ports = Ports.free(options.port, options.metrics_port)
    server = TorchServe(options.folder.resolve(), options.store.resolve(), options.address, ports, options.metrics_address)
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
        while server.running and not stopping.wait(0.5):
            pass
        if not server.running:
            raise HostError(f"TorchServe ended by itself; see {server.log}")
        print("stopping: no new requests, finishing those in flight …", flush=True)
    finally:
        drained = server.stop(options.drain)
    print("stopped" if drained else f"stopped; some requests were not finished after {options.drain:.0f} s", flush=True)
    return 0 if drained else 1


def _greeting(server: TorchServe) -> str:
    archive = server.archives[-1]
    streams = archive.signature["streaming"]["possible"]
    body = json.dumps(archive.example() | ({"session": {"id": "my-stream", "step": 0}} if streams else {}))
    return f"""ready at {server.url}
token     {server.token()}
sessions  {masked(server.sessions)}
metrics   {server.metrics_url}
try       curl -s {server.url}/predictions/{archive.name} -H 'Authorization: Bearer {server.token()}' \\
            -H 'Content-Type: application/json' -d '{body}'
Ctrl-C drains and stops."""


def _stop(options: argparse.Namespace) -> int:
    """End what is left of the server in the folder, without draining."""
    print("stopped" if stop(options.folder) else "not running")
    return 0


def _health(options: argparse.Namespace) -> int:
    """Ask every model of the server in the folder for a prediction."""
    folder: Path = options.folder
    state = json.loads((folder / "server.json").read_text())
    keys = json.loads((folder / "key_file.json").read_text())
    headers = {"Authorization": f"Bearer {keys['inference']['key']}"}
    failing = [archive.name for archive in find(Path(state["store"])) if not answers(state["url"], archive, headers)]
    print(f"not answering: {', '.join(failing)}" if failing else "healthy")
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
