"""The HTTP API's bytes: request documents out, answers or exceptions in. docs/api.md is the contract."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

from cellstate.arrays import ArrayLike, to_json
from cellstate.errors import CellstateError, ConnectionFailed, UnexpectedReply, api_error, host_error

Json: TypeAlias = dict[str, Any]
State: TypeAlias = str | Mapping[str, ArrayLike]  # the opaque string, or the state's arrays by name
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
PREDICTION = ("prediction",)


class Options(TypedDict, total=False):
    """What a request may ask for beside its inputs."""

    horizon: int  # roll the model forward that many steps
    future: ArrayLike | None  # [horizon, K], the inputs known in advance
    levels: Sequence[int]  # with a horizon: percentages for which the forecast has intervals
    paths: int  # with levels or samples of a model of distributions: along how many the forecast is sampled
    returns: Sequence[str]  # of prediction, output, h_n, c_n, state; parameters, samples (distributions); label, probabilities (classes)
    state: State | None  # where to start from; of a session: with its first step only


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


# Requests.


def path(model: str) -> str:
    """The path of a model: "traffic", or "traffic/1.0" for one version."""
    return "/predictions/" + "/".join(quote(part, safe="") for part in model.split("/"))


def request(inputs: ArrayLike, **options: Unpack[Options]) -> Json:
    """A request object. Fields that keep their default are left out. Raises TypeError for an option that there is not."""
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}; known: {', '.join(Options.__annotations__)}")
    document: Json = {"inputs": to_json(inputs)} if (rows := _observations(inputs)) is None else {"observations": rows}
    if horizon := options.get("horizon", 0):
        document["horizon"] = horizon
    if (future := options.get("future")) is not None:
        document["future"] = to_json(future)
    if levels := list(options.get("levels", ())):
        document["levels"] = levels
    if paths := options.get("paths", 0):
        document["paths"] = paths
    if (returns := tuple(options.get("returns", PREDICTION))) != PREDICTION:
        document["return"] = list(returns)
    if (state := options.get("state")) is not None:
        document["state"] = state if isinstance(state, str) else {name: to_json(array) for name, array in state.items()}
    return document


def _observations(inputs: ArrayLike) -> list[Json] | None:
    """Inputs that are objects of a time and named values; None of any others."""
    if not isinstance(inputs, list | tuple) or not inputs or not all(isinstance(item, Mapping) for item in inputs):
        return None
    return [dict(item) for item in inputs]


def encode(document: Json) -> bytes:
    """NaN, a measurement that is missing, becomes null. Raises ValueError for infinity, which the service does not take."""
    try:
        return _dumps(document)
    except ValueError:  # JSON has neither; most documents have neither, and pay nothing for this
        return _dumps(_with_nulls(document))


def _dumps(document: Any) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """Return the JSON value of a scalar that is none of Python's own: a number of NumPy's, a time."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected numbers, texts and times, got {type(value).__name__}")


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_nulls(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    number = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(number, float) and math.isnan(number) else number


# Answers.


def decode(outcome: Response | ConnectionFailed | None) -> Json:
    """The answer's document. Raises the CellstateError that the outcome stands for."""
    if isinstance(outcome, ConnectionFailed):
        raise outcome
    assert outcome is not None  # every Send has an outcome
    document = _document(outcome.content)
    if outcome.status != 200:
        raise _error(outcome, document)
    if document is None:
        raise UnexpectedReply(f"expected a JSON object, got {_excerpt(outcome.content)}")
    return document


def decode_rows(document: Json, count: int) -> list[Json | CellstateError]:
    """Answers and errors of the rows of one body. Raises UnexpectedReply when they are not as many as the rows."""
    rows = document.get("predictions")
    if not isinstance(rows, list) or len(rows) != count or not all(map(_is_row, rows)):
        raise UnexpectedReply(f"expected {count} predictions, got {document!r:.200}")
    return [api_error(row["error"]) if "error" in row else row for row in rows]


def _is_row(row: Any) -> bool:
    """Whether this is a result, or an error that has a code."""
    return isinstance(row, dict) and ("error" not in row or (isinstance(row["error"], dict) and "code" in row["error"]))


def _document(content: bytes) -> Json | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _error(response: Response, document: Json | None) -> CellstateError:
    wait = _retry_after(response.headers.get("retry-after"))
    error = (document or {}).get("error")
    if isinstance(error, dict) and "code" in error:
        return api_error(error, response.status, wait)
    fields = document or {}
    message = fields.get("message") or error or _redirection(response) or _excerpt(response.content)
    return host_error(response.status, str(fields.get("type", "")), str(message), wait)


def _redirection(response: Response) -> str:
    """Say where a server redirects to, such as from http to https; a client does not follow it, for its key would go there, too."""
    location = response.headers.get("location")
    return f"redirected to {location[:200]}: give the client that server's URL" if location else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds; the header has seconds or a date (RFC 9110, 10.2.3). What is neither is left out."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _excerpt(content: bytes) -> str:
    return repr(content[:200].decode(errors="replace")) if content else "an answer without a body"
