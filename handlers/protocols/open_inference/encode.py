"""Turns results into named tensors, and those into one body.

The elements of a row are encoded before its commit, so that a reply that is too large is refused in time; the rows are put together
afterwards. A tensor's rows lie side by side in its second axis where the tensor is a state `[L*D, N, size]`, in its first axis otherwise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from msgspec import Struct

from handlers.arrays import Array, Floats
from handlers.engine.request import IMPUTED, OPAQUE, PREDICTION, Result, StepResults
from handlers.errors import CellstateError, TooLarge
from handlers.protocols.base import error_text
from handlers.protocols.open_inference import binary
from handlers.protocols.open_inference.binary import BYTES
from handlers.protocols.open_inference.decode import LOWER, TIMES, UPPER
from handlers.protocols.open_inference.rows import ERROR, GENERATION, STATUS, STEP
from handlers.protocols.open_inference.tensors import InferRequest
from handlers.sessions import state as state_format
from handlers.sessions.status import SessionStatus
from handlers.signature import Signature

FP32, INT64, INT32 = "FP32", "INT64", "INT32"
BOUNDS = (LOWER, UPPER)
NO_NUMBER = -1  # step and generation of a row whose session is not known


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output of the response."""

    name: str
    source: str  # what of the result: the name of an array, `state`, `times`, `lower` or `upper`
    binary: bool
    of_state: bool = False  # whether the rows lie in the second axis
    labels: Sequence[str] = ()  # names of the classes whose numbers the array has

    @property
    def datatype(self) -> str:
        return BYTES if self.source in (OPAQUE, TIMES) or self.labels else FP32


class Piece(Struct, frozen=True):
    """One row's part of an output: its shape without the batch axis, and its elements in as many chunks as lie apart in the tensor."""

    shape: tuple[int, ...]
    chunks: list[bytes]


_Column = tuple[str, tuple[int, ...], list[bytes]]  # one output of many rows: its name, the shape and the one chunk of each row's piece


class Row(Struct, frozen=True):
    """One row's result, encoded."""

    pieces: dict[str, Piece]
    size: int  # bytes of the row's elements
    session: SessionStatus | None = None
    imputed: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the response; `data` is its raw bytes, or its elements as JSON with commas between them."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes
    binary: bool


def encode_row(result: Result, wanted: Sequence[Wanted], key: bytes) -> Row:
    """Encode the elements of one row; `key` signs the states that clients hold."""
    pieces, size = {}, 0
    has_arrays_only = result.state is None and not result.times and not result.intervals
    for output in wanted:
        array: Array | None = result.arrays.get(output.source) if has_arrays_only else _array(result, output.source, key)
        if array is not None and output.labels:
            array = _texts([output.labels[int(number)].encode() for number in array.ravel()]).reshape(array.shape)
        if array is not None:
            parts: list[Array] = list(array) if output.of_state else [array]
            chunks = [_elements(part, output.datatype, output.binary) for part in parts]
            pieces[output.name] = Piece(array.shape, chunks)
            size += sum(map(len, chunks))
    return Row(pieces, size, result.session, result.imputed)


def encode_rows(calls: Sequence[tuple[Sequence[Wanted], int]], results: StepResults) -> list[Row]:
    """Encode the elements of steps as `encode_row` does, each with what its call wants, and the bytes that it may have.

    Raises:
        TooLarge: the elements of one are more.
    """
    encoded: dict[tuple[str, bool], list[bytes]] = {}  # of all rows, by source, in binary or in JSON
    rows, columns, last = [], list[_Column](), None
    for i, (wanted, max_bytes) in enumerate(calls):
        if wanted is not last:  # the rows of one body want the same
            columns, last = [column for output in wanted if (column := _column(output, results, encoded)) is not None], wanted
        pieces = {name: Piece(shape, [chunks[i]]) for name, shape, chunks in columns if chunks[i]}
        size = sum([len(chunks[i]) for _, _, chunks in columns])
        if size > max_bytes:
            raise TooLarge("reply: a prediction is too long to be sent")
        rows.append(Row(pieces, size, results.status(i)))
    return rows


def _column(output: Wanted, results: StepResults, encoded: dict[tuple[str, bool], list[bytes]]) -> _Column | None:
    """Encode one output of all rows, an empty chunk for a row that has none; None where no row has it. `encoded` keeps the chunks."""
    kind = output.source, output.binary
    if output.source == PREDICTION:
        chunks = encoded.get(kind) or encoded.setdefault(kind, _chunks(results.predictions, output.binary))
        return output.name, results.predictions.shape[1:], chunks
    if output.source == TIMES and results.times:
        return output.name, (1,), encoded.get(kind) or encoded.setdefault(kind, _time_chunks(results.times, output.binary))
    return None


def _chunks(array: Floats, in_binary: bool) -> list[bytes]:
    """Encode the elements of each row."""
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    if not in_binary:
        return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    data = binary.write(flat, FP32)
    size = len(data) // len(flat)
    return [data[start : start + size] for start in range(0, len(data), size)]


def _time_chunks(times: Sequence[str], in_binary: bool) -> list[bytes]:
    """Encode the one time of each row."""
    encoded = {time: _elements(_texts([time.encode()]), BYTES, in_binary) if time else b"" for time in set(times)}
    return [encoded[time] for time in times]


def stack(wanted: Sequence[Wanted], rows: Sequence[Row | CellstateError]) -> list[Output]:
    """Put the rows of each output together that any of them has."""
    found = set().union(*[row.pieces for row in rows if isinstance(row, Row)])
    return [_stack(output, rows) for output in wanted if output.name in found]


def _stack(output: Wanted, rows: Sequence[Row | CellstateError]) -> Output:
    """Put the rows of one output together. A row that failed is not a number."""
    pieces = [row.pieces.get(output.name) if isinstance(row, Row) else None for row in rows]
    first = next(piece for piece in pieces if piece is not None)
    chunks = [(_missing(first, output) if piece is None else piece).chunks for piece in pieces]
    in_order = [row[part] for part in range(len(first.chunks)) for row in chunks]
    shape = (first.shape[0], len(rows), *first.shape[1:]) if output.of_state else (len(rows), *first.shape)
    return Output(output.name, output.datatype, shape, (b"" if output.binary else b",").join(in_order), output.binary)


def session_outputs(rows: Sequence[Row | CellstateError], infer: InferRequest) -> list[Output]:
    """What became of each row: the step and generation of its session, its status and its error."""
    places = [_place(row) if isinstance(row, CellstateError) or row.session is None else row.session for row in rows]
    statuses, errors = np.full(len(rows), 200, np.int32), [b""] * len(rows)
    for i, row in enumerate(rows):
        if isinstance(row, CellstateError):
            statuses[i], errors[i] = row.status, error_text(row).encode()
    columns: dict[str, tuple[str, Array]] = {
        STEP: (INT64, np.array([place.step for place in places], np.int64)),
        GENERATION: (INT64, np.array([place.generation for place in places], np.int64)),
        STATUS: (INT32, statuses),
        ERROR: (BYTES, _texts(errors)),
    }
    return [_output(name, datatype, array, infer) for name, (datatype, array) in columns.items()]


def imputed_output(rows: Sequence[Row | CellstateError], infer: InferRequest) -> list[Output]:
    """How many missing values of each row predictions stood in for; nothing where none was missing."""
    counts = np.array([row.imputed if isinstance(row, Row) else 0 for row in rows], np.int64)
    return [_output(IMPUTED, INT64, counts, infer)] if counts.any() else []


def _output(name: str, datatype: str, array: Array, infer: InferRequest) -> Output:
    in_binary = infer.in_binary(name)
    return Output(name, datatype, array.shape, _elements(array, datatype, in_binary), in_binary)


def session_parameters(session: SessionStatus | None) -> dict[str, Any]:
    """Where the one session of a response is."""
    if session is None:
        return {}
    known = {"sequence_id": session.id, STEP: session.step, GENERATION: session.generation, "replayed": session.replayed}
    flags = {"sequence_end": session.closed, "rewarmed": session.rewarmed}
    rebuilt = {"rebuilt": session.rebuilt} if session.rewarmed else {}
    return known | {name: True for name, value in flags.items() if value} | rebuilt


def encode_response(
    signature: Signature, id: str | None, parameters: dict[str, Any], outputs: Sequence[Output]
) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON header where raw bytes follow."""
    head: dict[str, Any] = {"model_name": signature.name, "model_version": signature.version}
    if id is not None:
        head["id"] = id
    if parameters:
        head["parameters"] = parameters
    header = b'%b,"outputs":[%b]}' % (orjson.dumps(head)[:-1], b",".join([_describe(output) for output in outputs]))
    if not any(output.binary for output in outputs):
        return header, None
    return header + b"".join([output.data for output in outputs if output.binary]), len(header)


def _describe(output: Output) -> bytes:
    head: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    if output.binary:
        return orjson.dumps(head | {"parameters": {"binary_data_size": len(output.data)}})
    return b'%b,"data":[%b]}' % (orjson.dumps(head)[:-1], output.data)


def _array(result: Result, source: str, key: bytes) -> Array | None:
    """One row's array, None where the result has none."""
    if source == OPAQUE:
        return None if result.state is None else _texts([state_format.to_text(result.state, key).encode()]).reshape(())
    if source == TIMES:
        return _texts([time.encode() for time in result.times]) if result.times else None
    if source in BOUNDS:
        side = BOUNDS.index(source)
        return np.stack([pair[side] for pair in result.intervals.values()]) if result.intervals else None
    return result.arrays.get(source)


def _elements(array: Array, datatype: str, in_binary: bool) -> bytes:
    if in_binary:
        return binary.write(array, datatype)
    if datatype == BYTES:
        return orjson.dumps([item.decode() for item in array.ravel()])[1:-1]
    return orjson.dumps(np.ascontiguousarray(array).ravel(), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _missing(like: Piece, output: Wanted) -> Piece:
    """A row that failed: not a number, which is null in JSON; an empty text."""
    count = math.prod(like.shape) // len(like.chunks)
    if output.datatype == BYTES:
        element = bytes(binary.PREFIX) if output.binary else b'""'
    else:
        element = np.float32(np.nan).tobytes() if output.binary else b"null"
    return Piece(like.shape, [(b"" if output.binary else b",").join([element] * count)] * len(like.chunks))


def _place(row: Row | CellstateError) -> SessionStatus:
    """Where the session of a row is that has no status: what an error tells of it."""
    details = row.details if isinstance(row, CellstateError) else {}
    return SessionStatus("", details.get("expected", NO_NUMBER), 0.0, details.get(GENERATION, NO_NUMBER))


def _texts(items: list[bytes]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array
