"""`cellstate`: every command of the repository under one name, from any folder. `make setup` installs it."""

import importlib
import sys

import host

COMMANDS = {  # the module whose `main` runs it, and its name there
    "export": ("export.__main__", ""),
    **{verb: ("host.__main__", verb) for verb in ("serve", "deploy", "rollback", "retire", "models", "status", "health", "keys", "stop")},
    "sessions": ("host.sessions", ""),
    "load": ("loadtests.load.command", ""),
    "chaos": ("loadtests.chaos.command", ""),
    "oracle": ("loadtests.oracle.command", ""),
}
HELP = f"""usage: cellstate COMMAND …

  export                              build an archive from a trained model, or inspect one
  serve, status, health, stop         run a server over a folder of archives
  deploy, rollback, retire, models    change what a running server serves, without an outage
  keys                                add, list and revoke API keys
  sessions                            the sessions of a store; warm starts and backtests of a running server
  load, chaos, oracle                 load a deployment, and prove that it lost nothing

`cellstate COMMAND --help` says more; `cellstate --version` prints {host.VERSION}. `python -m export`, `python -m host`,
`python -m host.sessions` and `python -m loadtests` are the same commands."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names, and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    name, rest = given[0] if given else "", given[1:]
    if name == "--version":
        print(f"cellstate {host.VERSION}")
        return 0
    if name not in COMMANDS:
        asked = name in ("-h", "--help")
        print(HELP, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    module, verb = COMMANDS[name]
    return int(importlib.import_module(module).main([verb, *rest] if verb else rest))


if __name__ == "__main__":
    sys.exit(main())
