"""`python -m loadtests.oracle HISTORY --store model_store`: judge a recorded history.

Exit code: 0 every answer is explained, 1 a violation, 2 no usable history, 3 undecided.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from host.program import spelled
from loadtests.oracle.judge import judge
from loadtests.oracle.report import printed
from loadtests.oracle.search import LIMIT


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a history, print the report and return the exit code."""
    parser = argparse.ArgumentParser(prog=spelled("python -m loadtests.oracle"), description="Judge a recorded history.")
    parser.add_argument("history", type=Path)
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="folder with the model's archive (default: model_store)")
    parser.add_argument("--keep-versions", type=int, help="the service's setting; without it any rewind may be refused")
    parser.add_argument("--strict", action="store_true", help="count a non-atomic fork as a violation")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"places to visit before a partition is given up (default: {LIMIT:,})")
    options = parser.parse_args(arguments)
    try:
        report = judge(options.history, options.store, options.keep_versions, options.limit, options.strict)
    except (ValueError, LookupError, OSError) as e:
        print(f"oracle: {e}", file=sys.stderr)
        return 2
    print(printed(report))
    return report.code
