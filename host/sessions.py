"""`python -m host.sessions URL VERB`: the sessions of a store, for its operator; or series of a file, in sessions of a running server."""

import sys
from collections.abc import Sequence

from host import operator


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code. A server's URL has other verbs than a store's."""
    if arguments and arguments[0].startswith(("http://", "https://")):
        from host.bulk import command  # needs the client, which is a package of its own

        return command.main(arguments)
    return operator.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
