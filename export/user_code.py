"""Find the user's own line in a traceback."""

import traceback
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent


def at_user_line(error: BaseException) -> str:
    """Return ` (at file:line)` for the innermost frame outside torch and this package, or an empty string."""
    line = last_user_line(traceback.extract_tb(error.__traceback__))
    return f" (at {line})" if line else ""


def last_user_line(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return `file:line` of the last of `frames` that is in the user's code, or an empty string."""
    own = [f for f in frames if "/torch/" not in f.filename and PACKAGE not in Path(f.filename).parents and "<" not in f.filename]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""
