"""`python -m host.sessions URL VERB`: the operator's command for the sessions of a store."""

import sys

from host.operator import main

if __name__ == "__main__":
    sys.exit(main())
