"""`python -m host deploy | rollback | retire | models`: change which versions of a model running servers serve, while they serve.

`deploy` brings the version up on every server and compares its answers before it makes it the default on the first. Whatever fails is
undone on every server.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from handlers.errors import CellstateError
from host.archives import Archive
from host.deployed import Deployed, locked
from host.deployment import Choices, Deployment, end, live_sessions, served_version
from host.moving import move
from host.ports import HostError
from host.running import RunningServer
from host.table import align

POLL = 2.0  # seconds between two looks at the sessions of a version that is to be retired
COLUMNS = ("model", "version", "default", "health", "workers", "queued")


def add_parsers(verbs: Any) -> None:
    """Define the commands among the `verbs` of a command line."""
    deploy = verbs.add_parser("deploy", help="serve a version of a model and make it the default, without an outage")
    deploy.add_argument("what", metavar="FILE | MODEL:VERSION", help="an archive, or a version that the server's store holds")
    deploy.set_defaults(run=_deploy)
    rollback = verbs.add_parser("rollback", help="make the version that was the default before the default again")
    rollback.add_argument("model")
    rollback.set_defaults(run=_rollback)
    retire = verbs.add_parser("retire", help="serve a version no more; refused while sessions need it")
    retire.add_argument("version", metavar="MODEL:VERSION", type=_version)
    retire.add_argument(
        "--drain", type=float, default=0.0, metavar="SECONDS", help="move its sessions to the default, and wait so long until none needs it"
    )
    retire.add_argument("--force", action="store_true", help="do not look for sessions: their next steps are answered 409 model_changed")
    retire.set_defaults(run=_retire)
    models = verbs.add_parser("models", help="print the versions that are served, and those that are retired")
    models.add_argument("--json", action="store_true", help="as one JSON object, by server")
    models.set_defaults(run=_models)
    for verb in (deploy, rollback, retire, models):
        verb.add_argument(
            "--server", type=Path, action="append", metavar="FOLDER", help="folder of a running server; may be repeated (default: run)"
        )


def _version(text: str) -> str:
    """Return `model/version`."""
    model, _, version = text.partition(":")
    if not model or not version:
        raise argparse.ArgumentTypeError(f"expected MODEL:VERSION, got {text!r}")
    return f"{model}/{version}"


def _servers(options: argparse.Namespace) -> list[RunningServer]:
    return [RunningServer.of(folder) for folder in options.server or [Path("run")]]


@contextmanager
def _locked(options: argparse.Namespace) -> Iterator[list[RunningServer]]:
    """Keep other commands from changing what the servers serve."""
    servers = _servers(options)
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(locked(server.folder))
        yield servers


def _say(server: RunningServer, text: str) -> None:
    print(f"{server.folder}: {text}", flush=True)


def _deploy(options: argparse.Namespace) -> int:
    with _locked(options) as servers, ExitStack() as undo:  # on every server, or on none
        deployments, switched = [Deployment.of(server, options.what) for server in servers], dict[Path, Choices]()
        for deployment in deployments:
            undo.callback(_undo, deployment, switched)
            _bring_up(deployment)
        for deployment in deployments:
            switched[deployment.server.folder] = deployment.choices()
            before = deployment.switch()
            after = "" if before == deployment.archive.version else f"; {before} goes on serving its sessions until it is retired"
            _say(deployment.server, f"{deployment.archive.address} is the default{after}")
        undo.pop_all()
    return 0


def _bring_up(deployment: Deployment) -> None:
    """Start the version and compare its answer. Raises HostError."""
    deployment.bring_up()
    difference = deployment.compare()
    how = "; no answer is recorded to compare with" if difference is None else f" as recorded, difference {difference:.1e}"
    _say(deployment.server, f"{deployment.archive.address} answers{how}")


def _undo(deployment: Deployment, switched: Mapping[Path, Choices]) -> None:
    """Take a version back from a server. `switched` are what servers had chosen before it was to be their default, by folder."""
    before, address = switched.get(deployment.server.folder), deployment.archive.address
    if before is not None:
        try:
            deployment.switch_back(before)
        except (HostError, OSError) as e:
            _say(deployment.server, f"{address} could not be taken back ({e}): deploy {deployment.archive.name}:{before.default} there")
            return
        _say(deployment.server, f"{before.default} is the default as before")
    deployment.take_down()


def _rollback(options: argparse.Namespace) -> int:
    with _locked(options) as servers:
        targets = [(server, _earlier(server, options.model)) for server in servers]
        return max([_roll_back(server, options.model, version) for server, version in targets])


def _roll_back(server: RunningServer, model: str, version: str) -> int:
    """Make `version` the default again; return the exit code. A server that fails keeps none of the others from going back."""
    try:
        before, deployed = server.management.default_version(model), Deployed.read(server.folder)
        deployed.roll_back(model, version)
        server.management.set_default(served_version(server, f"{model}/{version}"))
        deployed.write(server.folder)
    except (HostError, OSError) as e:
        print(f"{server.folder}: {model}/{version} could not be made the default again ({e}): try again there", file=sys.stderr)
        return 2
    _say(server, f"{model}/{version} is the default again; {before} goes on serving its sessions until it is retired")
    return 0


def _earlier(server: RunningServer, model: str) -> str:
    """Return the version that was the default before the present one. Raises HostError when it does not answer, or there is none."""
    served = {archive.version for archive in server.models.archives() if archive.name == model}
    default = server.management.default_version(model)
    chosen = Deployed.read(server.folder).defaults.get(model, [])
    earlier = [version for version in chosen if version in served and version != default]
    if not earlier:
        raise HostError(f"{server.folder}: no version of {model} that is served was the default before {default}")
    address = f"{model}/{earlier[-1]}"
    if reason := server.failures().get(address):
        raise HostError(f"{server.folder}: {address} does not answer ({reason}); nothing was changed")
    return earlier[-1]


def _retire(options: argparse.Namespace) -> int:
    retirable = [(server, _retirable(server, options.version)) for server in _servers(options)]
    moves = options.drain > 0 and not options.force
    if not options.force:  # without the lock: other versions may be deployed meanwhile
        deadline = time.monotonic() + options.drain
        for server, archive in retirable:
            _wait(server, archive, deadline, moves)
    with _locked(options) as servers:
        retirable = [(server, _retirable(server, options.version)) for server in servers]
        if not options.force:
            for server, archive in retirable:
                _wait(server, archive, time.monotonic(), moves)
        for server, archive in retirable:
            end(server, archive)
            _say(server, f"{archive.address} is retired")
        if moves:
            for server, archive in retirable:  # those that were stepped at that version since
                _move(server, archive, 0)
    return 0


def _retirable(server: RunningServer, address: str) -> Archive:
    """Return the archive of a version that is served and not the default. Raises HostError for any other."""
    archive = served_version(server, address)
    if server.management.default_version(archive.name) == archive.version:
        raise HostError(f"{server.folder}: {archive.address} is the default: deploy another version, or roll back, first")
    return archive


def _wait(server: RunningServer, archive: Archive, deadline: float, moves: bool) -> None:
    """Wait until no live session needs a version but those that can be moved to the default, if it `moves` them.

    Raises HostError when some need it at the deadline, monotonic seconds.
    """
    while count := _count(server, archive):
        why = ""
        if moves:
            count, why = _move(server, archive, count)
            if not count:
                return
        if time.monotonic() >= deadline:
            raise HostError(
                f"{server.folder}: {count} live sessions have the state of {archive.address}{why}: close them, move them or wait for them "
                f"with --drain SECONDS, or give them up with --force"
            )
        time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))


def _move(server: RunningServer, archive: Archive, count: int) -> tuple[int, str]:
    """Move sessions of a version to the default version; return how many of `count` cannot be moved, and why where none can."""
    default = served_version(server, f"{archive.name}/{server.management.default_version(archive.name)}")
    try:
        moved, left = move(server.description.sessions, archive, default)
    except HostError as e:
        return count, f" and cannot be moved ({e})"
    if moved:
        _say(server, f"{moved} sessions of {archive.address} were moved to {default.address}")
    return left, f", with too few inputs for {default.address}"


def _count(server: RunningServer, archive: Archive) -> int:
    try:
        return live_sessions(server, archive)
    except CellstateError as e:
        raise HostError(f"{server.folder}: its sessions cannot be counted ({e.message}); --force retires without counting") from e


def _models(options: argparse.Namespace) -> int:
    found = {str(server.folder): _described(server) for server in _servers(options)}
    if options.json:
        print(json.dumps(found))
        return 0
    rows = [[folder, *(model[name] for name in COLUMNS)] for folder, models in found.items() for model in models]
    print("\n".join(align([["server", *COLUMNS], *rows])))
    return 0


def _described(server: RunningServer) -> list[dict[str, Any]]:
    retired = [address.split("/", 1) for address in Deployed.read(server.folder).retired]
    rows = [dict.fromkeys(COLUMNS, "–") | {"model": model, "version": version, "health": "retired"} for model, version in retired]
    return [*server.status()["models"], *rows]
