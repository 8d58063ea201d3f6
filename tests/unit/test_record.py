"""The record of a session: what is committed comes back whole, and nothing that is not whole is taken for one."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.sessions import state
from handlers.sessions.record import HEADER, Record
from handlers.sessions.state import CorruptState, State

GOLDEN = Path(__file__).parent / "golden" / "record-1.hex"
DIGEST, REQUEST = bytes(range(16)), bytes(range(16, 32))
SIZE = 4

values = st.lists(st.floats(width=32, allow_nan=False), min_size=SIZE, max_size=SIZE).map(lambda v: np.array(v, np.float32))
states = st.builds(State, values, st.integers(0, 2**53), st.just(DIGEST))
times = st.floats(0, 1e11)
features = st.integers(1, 5).flatmap(lambda n: st.lists(values.map(lambda v: v[:3]), min_size=n, max_size=n)).map(np.stack)
tokens = st.lists(st.integers(0, 2**31), min_size=1, max_size=5).map(lambda ids: np.array(ids, np.int64))
records = st.builds(
    Record, states, times, times, st.integers(0, 2**53), st.binary(min_size=16, max_size=16), st.binary(max_size=50), st.booleans(),
    st.lists(states, max_size=3).map(tuple), st.one_of(st.none(), features, tokens),
)  # fmt: skip


def parts(record):
    kept = [(s.values.tobytes(), s.position, s.digest) for s in (record.state, *record.history)]
    recent = None if record.recent is None else (record.recent.dtype, record.recent.shape, record.recent.tobytes())
    rest = (record.created_at, record.expires_at, record.last_step, record.last_digest, record.answer, record.closed)
    return kept, recent, rest


@given(records)
def test_a_record_comes_back_whole(record):
    assert parts(Record.decode(record.encode())) == parts(record)


@given(records, st.data())
def test_a_record_with_any_changed_byte_is_corrupt(record, data):
    stored = bytearray(record.encode())
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptState):
        Record.decode(bytes(stored))


@given(records)
def test_a_record_cut_short_anywhere_is_corrupt(record):
    whole = record.encode()
    for length in range(0, len(whole), 7):
        with pytest.raises(CorruptState):
            Record.decode(whole[:length])


@given(st.binary(max_size=200))
def test_no_bytes_whatever_break_the_reader(junk):
    for data in (junk, state.seal(junk), state.seal(b"CSRE\1" + junk)):
        with pytest.raises(CorruptState):
            Record.decode(data)


def example():
    now, before = (State(np.array([0.0, -1.5, 0.25, n], np.float32), position, DIGEST) for n, position in ((2.0**100, 7), (1.0, 6)))
    recent = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    return Record(now, 1.8e9, 1.8e9 + 60, 6, REQUEST, b'"prediction":[1.5]', False, (before,), recent)


def test_format_1_is_read_and_written_as_it_was_when_it_was_fixed():
    golden = bytes.fromhex(GOLDEN.read_text())
    assert parts(Record.decode(golden)) == parts(example())
    assert example().encode() == golden


def test_format_1_is_the_layout_that_its_docstring_tells():
    record = example()
    answer, recent = record.answer, record.recent.tobytes()
    head = b"CSRE" + struct.pack("<BBHddQ16sIBxHI", 1, 0, 1, 1.8e9, 1.8e9 + 60, 6, REQUEST, len(answer), 0, 3, 2)
    body = head + answer + state.pack(record.state) + state.pack(record.history[0]) + recent
    assert record.encode() == state.seal(body)
    assert len(head) == HEADER.size
