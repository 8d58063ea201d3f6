"""Spell commands as the user does: `cellstate` and its verbs where that was called, and modules by name otherwise."""

import sys
from pathlib import Path

NAMES = {  # longer ones before those that they begin with
    "python -m host.sessions": "cellstate sessions",
    "python -m loadtests.chaos": "cellstate chaos",
    "python -m loadtests.oracle": "cellstate oracle",
    "python -m loadtests": "cellstate load",
    "python -m export": "cellstate export",
    "python -m host": "cellstate",
}


def is_cellstate() -> bool:
    """Whether this process was started as `cellstate`."""
    return Path(sys.argv[0]).stem in ("cellstate", "cellstate_command")


def spelled(text: str) -> str:
    """Return a text with the commands in it as the user spells them."""
    if is_cellstate():
        for module, name in NAMES.items():
            text = text.replace(module, name)
    return text


def prefix(module: str) -> str:
    """Return what messages begin with: `module`, or `cellstate`."""
    return "cellstate" if is_cellstate() else module
