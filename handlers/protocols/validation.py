"""Turns JSON values into typed ones, or raises an error that names the field, what was expected and what came."""

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import orjson

from handlers.arrays import Array, Floats
from handlers.errors import InvalidInput, MalformedJson, UnknownField
from handlers.sessions.reference import MAX_STEP
from handlers.signature import Signature

FLOAT32_MAX = float(np.finfo(np.float32).max)
NUMBERS = frozenset({int, float})
MANY_NUMBERS = 100  # from which on an array finds the largest sooner
GZIP_MAGIC = b"\x1f\x8b"
MAX_NAMES = 8  # in a message
ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
IDS = re.compile(rf"(?:{ID.pattern}\n)*")


def reject_unknown_fields(document: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise UnknownField for a field that is not among `known`, with the name that was probably meant."""
    for name in document:
        if name not in known:  # a handful of names: faster than a set of them
            close = difflib.get_close_matches(name[:64], known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UnknownField(f"{where}: unknown field {short_repr(name)}; {hint}")


def parse_json(data: bytes, remedy: str = "send one JSON object in UTF-8 (NaN and Infinity are not JSON)") -> Any:
    """Parse a JSON text. Raises MalformedJson, also where an object has a field twice."""
    if not data:  # also what is left of a body that TorchServe took for a form
        raise MalformedJson("body: empty; send one JSON object, with the header Content-Type: application/json")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise MalformedJson(f"body: {_not_json(data, e)}; {remedy}") from e
    try:
        if data.count(b":") != _count_keys(document):  # a colon in a text, or a field that is given twice
            _reject_duplicate_fields(data)
    except RecursionError as e:  # orjson reads values that are nested deeper than Python's stack may be
        raise MalformedJson(f"body: nested too deeply; {remedy}") from e
    return document


def _not_json(data: bytes, error: ValueError) -> str:
    """Say why bytes are no JSON text: what they are, where that can be told."""
    if data.startswith(GZIP_MAGIC):
        return "it is gzip data, and no header Content-Encoding: gzip says so"
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return f"not UTF-8: byte 0x{data[e.start]:02x} at position {e.start}"
    return str(error)


def _count_keys(value: Any) -> int:
    """Count the fields of all objects in a JSON value, down to those in the lists of an object's fields."""
    if type(value) is not dict:
        return 0
    count = len(value)
    for item in value.values():
        kind = type(item)
        if kind is dict:
            count += _count_keys(item)
        elif kind is list and item and type(item[0]) is dict:
            count += sum(map(_count_keys, item))
    return count


def _reject_duplicate_fields(data: bytes) -> None:
    """Raise MalformedJson where an object in a JSON text has a field twice: which of them counts would depend on the parser."""
    json.loads(data, object_pairs_hook=_reject_duplicates)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen = set[str]()
    for name, _ in pairs:  # once: a body may have some hundred thousand of them
        if name in seen:
            raise MalformedJson(f"body: the field {short_repr(name)} is given twice in one object; send it once")
        seen.add(name)


def boolean(document: Mapping[str, Any], name: str, default: bool) -> bool:
    """Return a field that is true or false, or its default."""
    value = document.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}: expected true or false, got {json_type(value)}")
    return value


def integer(document: Mapping[str, Any], name: str, where: str) -> int:
    """Return a field that is an integer from 0 to `MAX_STEP`."""
    value = document[name]
    if isinstance(value, float) and value > MAX_STEP:  # an integer that no int64 holds is parsed as a float
        raise InvalidInput(f"{where}: expected 0 to {MAX_STEP}, got {value:g}")
    if type(value) is not int:
        is_whole = isinstance(value, float) and value.is_integer()
        got = f"{value}: write it without a decimal point or exponent" if is_whole else json_type(value)
        raise InvalidInput(f"{where}: expected an integer, got {got}")
    if not 0 <= value <= MAX_STEP:
        raise InvalidInput(f"{where}: expected 0 to {MAX_STEP}, got {value}")
    return value


def choice(value: Any, known: Sequence[str], where: str) -> str:
    """Return `value`, which must be one of `known`."""
    if not isinstance(value, str) or value not in known:
        raise InvalidInput(f"{where}: expected one of {', '.join(known)}, got {short_repr(value)}")
    return value


def session_id(value: Any, where: str) -> str:
    """Return `value`, which must be a session id."""
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise InvalidInput(f"{where}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : @ / + = -, got {short_repr(value)}")
    return value


def join_names(names: Sequence[str]) -> str:
    """Return names for a message, the first few of many."""
    return ", ".join([*names[:MAX_NAMES], "…"] if len(names) > MAX_NAMES else names)


def are_session_ids(values: Sequence[str]) -> bool:
    """Whether all of the texts are session ids."""
    text = "\n".join(values) + "\n"
    return text.count("\n") == len(values) and IDS.fullmatch(text) is not None


def matrices(values: Sequence[list[Any]], columns: int, limit: float = FLOAT32_MAX) -> list[Floats] | None:
    """Turn many lists of rows of `columns` JSON numbers into `[rows, columns]` float32 each, which are parts of one array.

    None where anything else is among them, or a number beyond ±`limit`; `matrix` says what, and in which row.
    """
    rows = list(chain.from_iterable(values))
    flat = rows if columns == 1 and type(rows[0]) is not list else _flat(rows, columns)
    if flat is None or not NUMBERS.issuperset(map(type, flat)):  # a bool would pass for 1, a string for its number
        return None
    numbers = in_range(flat, limit)
    if numbers is None:
        return None
    array = numbers.reshape(-1, columns)
    lengths = list(map(len, values))
    if lengths.count(lengths[0]) == len(lengths):
        return list(array.reshape(len(values), lengths[0], columns))
    ends = list(accumulate(lengths))
    return [array[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def in_range(flat: list[Any], limit: float) -> Floats | None:
    """Return JSON numbers as float32, None where one is beyond ±`limit`. JSON has no NaN.

    Adding 0 makes 0 of -0.0, for parsers read the integer -0 as either, and requests that are equal must hash alike.
    """
    if len(flat) < MANY_NUMBERS:
        return None if max(flat) > limit or min(flat) < -limit else np.array(flat, np.float32) + np.float32(0)
    numbers = np.array(flat, np.float64)
    return None if np.abs(numbers).max() > limit else numbers.astype(np.float32) + np.float32(0)


def _flat(rows: list[Any], columns: int) -> list[Any] | None:
    """Return the items of all rows; None where one of them is no list of `columns` items."""
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {columns}:
        return None
    return list(chain.from_iterable(rows))


def matrix(value: list[Any], columns: int, where: str, signature: Signature, noun: str = "features", limit: float = FLOAT32_MAX) -> Floats:
    """Turn rows of `columns` JSON numbers into `[rows, columns]` float32, none beyond ±`limit`."""
    if arrays := matrices([value], columns, limit):
        return arrays[0]
    if columns == 1 and not isinstance(value[0], list):
        value = [[item] for item in value]
    for i, row in enumerate(value):
        if type(row) is not list or len(row) != columns:
            got = len(row) if isinstance(row, list) else json_type(row)
            raise InvalidInput(f"{where}[{i}]: expected {columns} {noun}, got {got} (signature {signature.label})")
        for j, item in enumerate(row):
            if type(item) not in NUMBERS:
                raise InvalidInput(
                    f"{where}[{i}][{j}]: expected a number, got {json_type(item)}; fill in what is missing and not predicted by the model"
                )
    with np.errstate(over="ignore"):
        array = np.array(value, dtype=np.float32)
    check_range(array, where, limit, value)
    return array


def measurements(value: list[Any], signature: Signature, where: str = "inputs") -> tuple[Floats, int]:
    """Turn rows of JSON numbers into the model's inputs `[T, F]`, and count the missing ones.

    `null` is allowed in columns that feed back. It becomes NaN.
    """
    columns, limit = len(signature.features), signature.input_limit
    try:
        return matrix(value, columns, where, signature, limit=limit), 0
    except InvalidInput:  # numbers alone are the usual case, and pay nothing for this
        rows = [item if isinstance(item, list) or columns > 1 else [item] for item in value]
        optional = signature.fed_features
        missing = [(i, j) for i, row in enumerate(rows) if isinstance(row, list) for j in optional if row[j : j + 1] == [None]]
        if not missing:
            raise
    for i, j in missing:
        rows[i] = [*rows[i][:j], 0, *rows[i][j + 1 :]]
    array = matrix(rows, columns, where, signature, limit=limit)
    array[tuple(zip(*missing, strict=True))] = np.nan
    return array, len(missing)


def checked_measurements(array: Floats, where: str, signature: Signature) -> tuple[Floats, int]:
    """Check the range of inputs `[T, F]`, and count the missing ones: NaN in columns that feed back. Of many NaN they become one."""
    try:
        check_range(array, where, signature.input_limit)
        return array, 0
    except InvalidInput:
        missing = np.zeros(array.shape, np.bool_)
        columns = signature.fed_features
        missing[:, columns] = np.isnan(array[:, columns])
        check_range(np.where(missing, np.float32(0), array), where, signature.input_limit, array)
    return np.where(missing, np.float32(np.nan), array), int(missing.sum())  # requests that are equal must hash alike


def check_range(array: Floats, where: str, limit: float = FLOAT32_MAX, given: Any = None) -> None:
    """Raise InvalidInput where `[rows, columns]` holds what is no number, or beyond ±`limit`. `given` is what the client sent for it."""
    if np.abs(array).max(initial=0.0) <= limit:  # false for NaN, too
        return
    i, j = (int(k) for k in np.argwhere(~(np.abs(array) <= limit))[0])
    if np.isnan(array[i, j]):
        raise InvalidInput(f"{where}[{i}][{j}]: expected a number, got NaN; only a value that the model predicts may be missing")
    bound = "float32 (3.4e38)" if limit == FLOAT32_MAX else f"±{limit:.2g}, up to which this model was found right"
    value = (array if given is None else given)[i][j]
    shown = f"{value:.15g}" if isinstance(value, int | float) else value  # an integer may have been read as a float
    raise InvalidInput(f"{where}[{i}][{j}]: {shown} is beyond {bound}")


def tokens(value: list[Any], signature: Signature) -> Array:
    """Turn JSON integers into `[T]` int64 token ids of the vocabulary."""
    for i, item in enumerate(value):
        if type(item) is not int or not 0 <= item < signature.vocabulary:
            raise_token(i, item, signature)
    return np.array(value, dtype=np.int64)


def raise_token(i: int, item: Any, signature: Signature) -> None:
    """Raise InvalidInput for an id outside the vocabulary."""
    raise InvalidInput(
        f"inputs[{i}]: expected a token id from 0 to {signature.vocabulary - 1}, got {short_repr(item)} (signature {signature.label})"
    )


def json_type(value: Any) -> str:
    """Name the type of a JSON value, for a message that must not repeat its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "an object" if isinstance(value, dict) else "a number"


def short_repr(value: Any) -> str:
    """Show a client's value in a message: short, quoted, escaped."""
    text = ascii(value) if isinstance(value, str | int | float) else json_type(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
