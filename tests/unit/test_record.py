"""The record of a session: what is committed comes back whole, and nothing that is not whole is taken for one."""

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from xxhash import xxh3_64_digest

from handlers.sessions import record_v1, state
from handlers.sessions.kept import pack_kept, unpack_kept
from handlers.sessions.recent import empty, layout, without_head
from handlers.sessions.record import HEADER, NO_HASH, PREFIX, Record, pack_arrays, unpack_arrays, was_closed
from handlers.sessions.record_v1 import RecordV1
from handlers.sessions.state import CorruptState, State
from handlers.stores.base import HEAD

GOLDEN = Path(__file__).parent / "golden"
DIGEST, REQUEST, ACTION = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
SIZE = 4

values = st.lists(st.floats(width=32, allow_nan=False), min_size=SIZE, max_size=SIZE).map(lambda v: np.array(v, np.float32))
times = st.floats(0, 1e11)
hashes = st.binary(min_size=16, max_size=16)
features = st.integers(1, 5).flatmap(lambda n: st.lists(values.map(lambda v: v[:3]), min_size=n, max_size=n)).map(np.stack)
tokens = st.lists(st.integers(0, 2**31), min_size=1, max_size=5).map(lambda ids: np.array(ids, np.int64))
recents = st.builds(
    lambda rows, known, begins, layout: replace(without_head(rows, 0), known=min(known, len(rows)), begins=begins, layout=layout),
    features | tokens, st.integers(0, 5), st.booleans(), st.binary(min_size=8, max_size=8),
)  # fmt: skip
states = st.builds(State, values, st.integers(0, 2**53), st.just(DIGEST), st.binary(max_size=9), st.none() | recents)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
arrays = st.dictionaries(
    st.text("abc_n", min_size=1, max_size=9), shapes.map(lambda shape: np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
)
records = st.builds(
    Record, states, times, times, st.integers(0, 2**53), hashes, st.integers(0, 2**53), arrays.map(pack_arrays), st.text(max_size=9),
    hashes,
    st.integers(0, 2**53), st.booleans(), st.lists(st.integers(0, 2**53), max_size=3).map(tuple),
)  # fmt: skip


def kept(recent):
    return recent and recent.encode()


def parts(record):
    states = [(s.values.tobytes(), s.position, s.digest, s.forecast, kept(s.recent)) for s in (record.state, *record.unstored)]
    names = (
        "created_at",
        "expires_at",
        "last_step",
        "last_hash",
        "last_generation",
        "answer",
        "version",
        "rewind_hash",
        "generation",
        "closed",
    )
    return states, record.kept, [getattr(record, name) for name in names]


@given(records)
def test_a_record_comes_back_whole(record):
    assert parts(Record.decode(record.encode())) == parts(record)


@given(arrays)
def test_arrays_come_back_by_name_in_their_order(given_arrays):
    read = unpack_arrays(pack_arrays(given_arrays))
    assert list(read) == list(given_arrays)
    assert [(a.shape, a.tobytes()) for a in read.values()] == [(a.shape, a.tobytes()) for a in given_arrays.values()]


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


def checked(body):
    return body + xxh3_64_digest(body)


@given(st.binary(max_size=300))
def test_no_bytes_whatever_break_the_reader(junk):
    sound_heads = (b"CSRE\1" + junk, b"CSRE\2" + junk, b"CSRE\3" + junk, b"CSRE\4" + junk)
    for data in (junk, *sound_heads, *map(state.append_mac, (junk, *sound_heads)), *map(checked, (junk, *sound_heads))):
        with pytest.raises(CorruptState):
            Record.decode(data)


@given(st.binary(max_size=60))
def test_no_answer_whatever_breaks_the_reader(junk):
    with contextlib.suppress(CorruptState):
        unpack_arrays(junk)


def example():
    """A record with one earlier state, which is not in the store yet."""
    now, before = (
        State(np.array([0.0, -1.5, 0.25, n], np.float32), position, DIGEST, forecast)
        for n, position, forecast in ((2.0**100, 7, b"seven"), (1.0, 6, b""))
    )
    now.recent = without_head(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32), now.position)
    answer = pack_arrays({"prediction": np.array([1.5], np.float32)})
    return Record(now, 1.8e9, 1.8e9 + 60, 6, REQUEST, 2, answer, "1.0", ACTION, 3, False, (6,), (before,))


def stored_example():
    """The record as it is read again: its earlier state is a part of its entry."""
    return replace(example(), unstored=())


def test_format_2_is_read_as_it_was_when_it_was_fixed():
    golden = bytes.fromhex((GOLDEN / "record-2.hex").read_text())
    assert parts(Record.decode(golden)) == parts(example())


def test_a_record_without_earlier_states_and_recent_inputs_is_written_so_that_releases_before_read_it():
    bare = replace(stored_example(), state=replace(example().state, recent=None))
    assert bare.encode()[4] == 3
    assert replace(bare, kept=()).encode()[4] == 2


def test_format_3_is_read_as_it_was_when_it_was_fixed():
    golden, kept = [bytes.fromhex((GOLDEN / name).read_text()) for name in ("record-3.hex", "kept-1.hex")]
    assert parts(Record.decode(golden)) == parts(stored_example())
    [before] = example().unstored
    assert pack_kept(before) == kept
    read = unpack_kept(kept)
    assert (read.position, read.digest, read.values.tolist(), read.forecast) == (6, DIGEST, [0.0, -1.5, 0.25, 1.0], b"")


def newest_example():
    """The record with recent inputs of this release: room for three, of which two are known."""
    inputs = empty(3, 3, layout(["a", "b", "c"], "1h"), begins=False).followed_by(example().state.recent.inputs)
    return replace(example(), state=replace(example().state, recent=inputs))


def test_format_4_and_the_earlier_states_beside_it_are_read_and_written_as_they_were_when_they_were_fixed():
    record, golden, kept_golden = newest_example(), *[bytes.fromhex((GOLDEN / name).read_text()) for name in ("record-4.hex", "kept-2.hex")]
    assert record.encode() == golden
    assert parts(Record.decode(golden)) == parts(replace(record, unstored=()))
    assert pack_kept(record.state) == kept_golden
    assert kept(unpack_kept(kept_golden).recent) == kept(record.state.recent)


def test_a_head_that_knows_more_inputs_than_there_are_knows_none():
    record = newest_example()
    record.state.recent = replace(record.state.recent, known=4, begins=True)
    read = Record.decode(record.encode()).state.recent
    assert (read.known, read.begins, len(read.inputs)) == (0, False, 0)


def test_recent_inputs_are_the_last_ones_and_begin_the_stream_until_one_is_dropped():
    inputs = empty(3, 0, layout(["4 ids"], ""), begins=True)
    for ids, expected, begins in (([1], [1], True), ([2, 3], [1, 2, 3], True), ([4], [2, 3, 4], False), ([5, 6, 7, 8], [6, 7, 8], False)):
        inputs = inputs.followed_by(np.array(ids, np.int64))
        assert (inputs.inputs.tolist(), inputs.begins) == (expected, begins)
    assert [inputs.covers(steps) for steps in (2, 3, 4)] == [True, True, False]


def test_format_4_is_the_layout_that_its_docstring_tells():
    record = newest_example()
    answer = b"\x0a\x01prediction" + struct.pack("<If", 1, 1.5)
    head = b"CSRE" + struct.pack(
        "<BBHddQ16sQ16sQ16sIBIBHII", 4, 0, 1, 1.8e9, 1.8e9 + 60, 6, REQUEST, 2, ACTION, 3, DIGEST, 4, 3, len(answer), 0, 3, 3, 7
    )
    states = struct.pack("<Q", 7) + record.state.values.tobytes() + struct.pack("<Q", 6)
    recent = struct.pack("<II8s", 2, 0, record.state.recent.layout) + struct.pack("<9f", 0, 0, 0, 1, 2, 3, 4, 5, 6)
    assert record.encode() == checked(head + b"1.0" + answer + states + recent + b"\5\0seven")
    assert len(head) == HEADER.size


def old_example():
    new = example()
    return RecordV1(
        new.state, new.created_at, new.expires_at, 6, REQUEST, {"prediction": [1.5]}, False, new.unstored, new.state.recent.rows
    )


def test_format_1_is_read_as_it_was_when_it_was_fixed():
    golden = bytes.fromhex((GOLDEN / "record-1.hex").read_text())
    assert record_v1.encode(old_example(), b'"prediction":[1.5]') == golden
    read, expected = Record.decode(golden), example()
    expected.version, expected.rewind_hash, expected.generation, expected.last_generation = "", NO_HASH, 0, 0
    expected.state.forecast = b""
    assert parts(read) == parts(expected)


def test_a_record_of_format_1_that_an_action_left_is_as_that_action_left_it():
    old = old_example()
    by_action = RecordV1(old.state, old.created_at, old.expires_at, old.state.position, REQUEST, {}, False, (), None)
    read = Record.decode(record_v1.encode(by_action, b""))
    assert (read.last_step, read.last_hash, read.rewind_hash) == (7, REQUEST, REQUEST)


@pytest.mark.parametrize("answer", [b"}", b'"prediction":"not a state"', b'"prediction":{}', b'"prediction":[[1],[2,3]]'])
def test_a_record_of_format_1_whose_answer_is_none_is_corrupt(answer):
    with pytest.raises(CorruptState):
        Record.decode(record_v1.encode(old_example(), answer))


@pytest.mark.parametrize("closed", [True, False])
def test_the_first_bytes_that_a_sweep_sees_tell_whether_a_session_was_closed(closed):
    new, old = example(), old_example()
    new.closed = closed
    written = (
        new.encode(),
        record_v1.encode(RecordV1(*[closed if name == "closed" else getattr(old, name) for name in RecordV1.__slots__]), b""),
    )
    assert [was_closed(data[:HEAD]) for data in written] == [closed, closed]
    assert not any(was_closed(data) for data in (b"", b"CSRE\2", b"hello" * 20, b"CSRE\5\1" + bytes(90)))
    assert PREFIX.size <= HEAD


def test_a_rewind_to_an_earlier_state_forgets_what_came_after_it():
    record = example()
    [before] = record.unstored
    back = record.rewound(before, ACTION, 2e9)
    assert (back.state, back.kept, back.unstored, back.answer) == (before, (), (), b"")
    assert (back.last_step, back.last_hash, back.generation, back.expires_at) == (6, NO_HASH, 4, 2e9)


def test_a_rewind_to_the_current_state_keeps_the_last_answer():
    record = example()
    back = record.rewound(record.state, ACTION, 2e9)
    assert (back.answer, back.last_step, back.last_hash, back.generation) == (record.answer, 6, REQUEST, 4)
    assert (back.kept, back.unstored, back.state) == (record.kept, record.unstored, record.state)


@given(states)
def test_an_earlier_state_comes_back_whole(state):
    read = unpack_kept(pack_kept(state))
    for name in ("position", "digest", "forecast"):
        assert getattr(read, name) == getattr(state, name)
    assert (read.values.tobytes(), kept(read.recent)) == (state.values.tobytes(), kept(state.recent))


@given(states, st.data())
def test_an_earlier_state_with_a_changed_byte_or_cut_short_is_corrupt(state, data):
    whole = pack_kept(state)
    changed, length = bytearray(whole), data.draw(st.integers(0, len(whole) - 1))
    changed[length] ^= data.draw(st.integers(1, 255))
    for broken in (bytes(changed), whole[:length]):
        with pytest.raises(CorruptState):
            unpack_kept(broken)


@given(st.binary(max_size=99))
def test_no_bytes_whatever_break_the_reader_of_earlier_states(junk):
    for data in (junk, checked(junk), checked(b"CSKS\1" + junk), checked(b"CSKS\2" + junk)):
        with pytest.raises(CorruptState):
            unpack_kept(data)
