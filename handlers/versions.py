"""The order of model versions, for the host, which serves the highest one by default, and for sessions, which move to higher ones only."""

import re

NUMBERS = re.compile(r"\d+(?:\.\d+)*")
WORDS = re.compile(r"\d+|[^\W\d_]+")
Order = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...], str]


def version_order(version: str) -> Order:
    """Return a key by which versions sort: 1.9 before 1.10, and the pre-release 1.9-rc1 after 1.8 and before 1.9 (semver.org, 11)."""
    numbers = NUMBERS.match(version)
    suffix = version[numbers.end() :] if numbers else version
    words = tuple((not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in WORDS.findall(suffix))
    if numbers is None:
        return (), False, words, version
    return tuple(map(int, numbers[0].split("."))), not suffix, words, version
