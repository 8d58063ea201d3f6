"""JSON values into typed ones, or an error that names where, what was expected and what came.

It knows JSON and arrays. It does not know which field means what.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.errors import InvalidInput, UnknownField
from handlers.signature import Signature

Array = npt.NDArray[Any]
FLOAT32_MAX = float(np.finfo(np.float32).max)
MANY = 8  # names in a message
ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")


def only(document: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in document:
        if name not in known:
            close = difflib.get_close_matches(name[:64], known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UnknownField(f"{where}: unknown field {shown(name)}; {hint}")


def boolean(document: Mapping[str, Any], name: str, default: bool) -> bool:
    value = document.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}: expected true or false, got {kind(value)}")
    return value


def integer(document: Mapping[str, Any], name: str, most: int, where: str) -> int:
    value = document[name]
    if type(value) is not int:
        raise InvalidInput(f"{where}: expected an integer, got {kind(value)}")
    if not 0 <= value <= most:
        raise InvalidInput(f"{where}: expected 0 to {most}, got {value}")
    return value


def choice(value: Any, known: Sequence[str], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise InvalidInput(f"{where}: expected one of {', '.join(known)}, got {shown(value)}")
    return value


def session_id(value: Any, where: str) -> str:
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise InvalidInput(f"{where}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : @ / + = -, got {shown(value)}")
    return value


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first few of many."""
    return ", ".join([*names[:MANY], "…"] if len(names) > MANY else names)


def matrix(value: list[Any], columns: int, where: str, signature: Signature, noun: str = "features", limit: float = FLOAT32_MAX) -> Array:
    """Rows of `columns` JSON numbers -> `[rows, columns]` float32, none beyond ±`limit`."""
    if columns == 1 and not isinstance(value[0], list):
        value = [[item] for item in value]
    for i, row in enumerate(value):
        if not isinstance(row, list) or len(row) != columns:
            got = len(row) if isinstance(row, list) else kind(row)
            raise InvalidInput(f"{where}[{i}]: expected {columns} {noun}, got {got} (signature {signature.label})")
    if not set(map(type, itertools.chain.from_iterable(value))) <= {int, float}:  # a bool would pass for 1, a string for its number
        i, j = next((i, j) for i, row in enumerate(value) for j, item in enumerate(row) if type(item) not in (int, float))
        raise InvalidInput(f"{where}[{i}][{j}]: expected a number, got {kind(value[i][j])}; fill in a measurement that is missing")
    with np.errstate(over="ignore"):
        array = np.array(value, dtype=np.float32)
    if not (np.abs(array) <= limit).all():
        i, j = (int(k) for k in np.argwhere(~(np.abs(array) <= limit))[0])
        bound = "float32 (3.4e38)" if limit == FLOAT32_MAX else f"±{limit:.2g}, up to which this model was found right"
        raise InvalidInput(f"{where}[{i}][{j}]: {value[i][j]} is beyond {bound}")
    return array


def tokens(value: list[Any], signature: Signature) -> Array:
    """JSON integers -> `[T]` int64 token ids in the vocabulary."""
    for i, item in enumerate(value):
        if type(item) is not int or not 0 <= item < signature.vocabulary:
            raise InvalidInput(
                f"inputs[{i}]: expected a token id from 0 to {signature.vocabulary - 1}, got {shown(item)} (signature {signature.label})"
            )
    return np.array(value, dtype=np.int64)


def kind(value: Any) -> str:
    """What a JSON value is, for messages, without repeating its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "an object" if isinstance(value, dict) else "a number"


def shown(value: Any) -> str:
    """A client's value in a message: short, quoted, escaped."""
    text = ascii(value) if isinstance(value, str | int | float) else kind(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
