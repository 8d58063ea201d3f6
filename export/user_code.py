"""Tell the user's code from torch's and this package's."""

import functools
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

PACKAGE, TORCH = str(Path(__file__).parent), str(Path(torch.__file__).parent)


@functools.cache
def is_user_file(filename: str) -> bool:
    """Return whether a file is neither torch's nor this package's, nor made up by Python."""
    return not filename.startswith((PACKAGE + "/", TORCH + "/")) and "<" not in filename


def is_export_file(filename: str) -> bool:
    """Return whether a file belongs to this package."""
    return filename.startswith(PACKAGE + "/")


def at_user_line(error: BaseException) -> str:
    """Return ` (at file:line)` for the innermost frame in the user's code, or an empty string."""
    line = last_user_line(traceback.extract_tb(error.__traceback__))
    return f" (at {line})" if line else ""


def last_user_line(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return `file:line` of the last of `frames` that is in the user's code, or an empty string."""
    own = [f for f in frames if is_user_file(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""
