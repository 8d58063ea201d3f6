"""`python -m host.sessions URL VERB`: the sessions of a store, for its operator; or series of a file, in sessions of a running server."""

import sys
from collections.abc import Sequence

from host import operator
from host.program import prefix


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. A server's URL has other verbs than a store's."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or not given[0].startswith(("http://", "https://")):
        return operator.main(given)
    try:
        from host.bulk import command
    except ModuleNotFoundError as e:
        print(
            f"{prefix('host.sessions')}: warm and backtest need the client, a package of its own: pip install ./client ({e})",
            file=sys.stderr,
        )
        return operator.NOT_OPEN
    return command.main(given)


if __name__ == "__main__":
    sys.exit(main())
