"""Records that are decoded together are what they are one by one, whatever stands beside them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from handlers.sessions.alike import FEW, decode_many
from handlers.sessions.record import Record, pack_arrays
from handlers.sessions.state import MAX_POSITION, CorruptState, State
from tests.unit.test_record import DIGEST, parts, records

MANY = 2 * FEW


def step(i: int, position: int = 9, version: str = "1.0", closed: bool = False, forecast: bytes = b"") -> Record:
    """The record that a step leaves; no two are equal."""
    state = State(np.array([i, i + 1], np.float32), position + i, DIGEST, forecast)
    answer = pack_arrays({"prediction": np.array([i, -i], np.float32)})
    hash = bytes(15) + bytes([i])  # ends in a zero, where i does
    return Record(state, i + 0.5, i + 1.5, position + i - 1, hash[::-1], i % 3, answer, version, hash, i % 5, closed)


def alone(value: bytes) -> object:
    try:
        return parts(Record.decode(value))
    except CorruptState as e:
        return str(e)


def compare(values: Sequence[bytes]) -> None:
    found = [parts(record) if isinstance(record, Record) else str(record) for record in decode_many(values)]
    assert found == [alone(value) for value in values]


@pytest.mark.parametrize("forecast", [b"", b"\0", b"seventeen bytes \0"])
def test_the_records_of_steps_come_back_whole(forecast: bytes) -> None:
    made = [step(i, forecast=forecast) for i in range(MANY)]
    found = decode_many([record.encode() for record in made])
    assert [parts(record) for record in found] == [parts(record) for record in made]


@given(st.lists(records, max_size=MANY))
def test_records_of_any_kind_are_decoded_as_they_are_alone(made: list[Record]) -> None:
    compare([record.encode() for record in made])


ODD = {
    "of another version": step(0, version="1.1").encode(),
    "closed": step(0, closed=True).encode(),
    "of another model": step(0).encode().replace(DIGEST, bytes(16)),
    "damaged": step(0).encode()[:-20] + bytes(20),
    "beyond the last position": step(0, position=MAX_POSITION + 1).encode(),
    "of no format": bytes(len(step(0).encode())),
    "cut short": step(0).encode()[:50],
    "empty": b"",
}


def test_memories_of_forecasts_of_other_lengths_spoil_nothing() -> None:
    values = [step(i, forecast=b"four").encode() for i in range(MANY)]
    broken = values[1][:-8].replace(b"\4\0four", b"\5\0four")
    values[1] = broken + xxh3_64_digest(broken)
    compare(values)


@pytest.mark.parametrize("place", [0, 1, MANY - 1])
@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_one_that_is_otherwise_spoils_none_of_its_neighbours(value: bytes, place: int) -> None:
    values = [step(i).encode() for i in range(MANY)]
    values[place] = value
    compare(values)


def test_nothing_is_decoded_to_nothing() -> None:
    assert decode_many([]) == []
