"""State bytes: what went out comes back, and nothing else comes in."""

import base64
import contextlib
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import InvalidInput, ModelChanged, TooLarge
from handlers.sessions import state
from handlers.sessions.state import HEADER, CorruptState, State
from tests.support.signatures import RETRAINED, TRAFFIC

GOLDEN = Path(__file__).parent / "golden"
KEY, OTHER_KEY = b"a key of the operator", b"another"
VALUES = np.linspace(-1, 1, TRAFFIC.state_length, dtype=np.float32)
STATE = State(VALUES, 41, TRAFFIC.digest)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
states = st.builds(
    lambda values, position: State(np.array(values, np.float32), position, TRAFFIC.digest),
    st.lists(finite, min_size=TRAFFIC.state_length, max_size=TRAFFIC.state_length),
    st.integers(0, state.MAX_POSITION),
)
keys = st.sampled_from([b"", KEY])


def same(a: State, b: State) -> bool:
    return a.values.tobytes() == b.values.tobytes() and (a.position, a.digest) == (b.position, b.digest)


@given(states, keys)
def test_a_state_comes_back_bit_for_bit(original, key):
    assert same(state.unpack(state.verify_mac(state.append_mac(state.pack(original), key), key)), original)
    assert same(state.from_text(state.to_text(original, key), TRAFFIC, key), original)


@given(states, keys)
def test_every_opaque_string_of_a_model_has_the_announced_length(original, key):
    assert len(state.to_text(original, key)) == state.text_length(TRAFFIC)


def test_format_1_is_read_and_written_as_it_was_when_it_was_fixed():
    golden = bytes.fromhex((GOLDEN / "state-1.hex").read_text())
    read = state.unpack(state.verify_mac(golden))
    assert (read.position, read.digest, read.values.tolist()) == (7, bytes(range(16)), [0.0, -1.5, 0.25, 2.0**100])
    assert state.append_mac(state.pack(read)) == golden


def test_format_1_is_the_layout_that_its_docstring_draws():
    body = b"CSST" + struct.pack("<BBHQ16sQI", 1, 1, 0, 41, TRAFFIC.digest, VALUES.size, 0) + VALUES.astype("<f4").tobytes()
    assert state.pack(STATE) == body
    assert state.append_mac(body, KEY) == body + hashlib.blake2b(body, digest_size=16, key=KEY).digest()


@pytest.mark.parametrize("key", [b"", KEY], ids=["checksum", "signed"])
def test_every_truncation_is_refused(key):
    whole = state.append_mac(state.pack(STATE), key)
    for length in range(len(whole)):
        with pytest.raises(CorruptState):
            state.unpack(state.verify_mac(whole[:length], key))


@given(keys, st.data())
def test_any_changed_byte_is_refused(key, data):
    whole = bytearray(state.append_mac(state.pack(STATE, signed=bool(key)), key))
    at = data.draw(st.integers(0, len(whole) - 1), "at")
    whole[at] ^= data.draw(st.integers(1, 255), "change")
    with pytest.raises(CorruptState):
        state.verify_mac(bytes(whole), key)


@given(keys, st.data())
def test_no_changed_character_makes_another_state(key, data):
    """Base64 has two spellings of a few strings; none of them may mean something else."""
    text = state.to_text(STATE, key)
    at = data.draw(st.integers(0, len(text) - 1), "at")
    changed = text[:at] + data.draw(st.characters().filter(lambda c: c != text[at]), "character") + text[at + 1 :]
    with contextlib.suppress(InvalidInput):
        assert same(state.from_text(changed, TRAFFIC, key), STATE)


@pytest.mark.parametrize(
    ("writer", "reader"), [(KEY, OTHER_KEY), (KEY, b""), (b"", KEY)], ids=["another key", "no key", "unsigned where a key is asked"]
)
def test_another_key_is_refused(writer, reader):
    with pytest.raises(InvalidInput, match=r"^state: .*signature does not match"):
        state.from_text(state.to_text(STATE, writer), TRAFFIC, reader)


def test_an_intact_state_of_another_model_is_model_changed():
    with pytest.raises(ModelChanged, match=r"another model than traffic-2\.0"):
        state.from_text(state.to_text(STATE), RETRAINED)


def test_a_state_of_another_size_is_model_changed():
    short = State(VALUES[:-1], 41, TRAFFIC.digest)
    with pytest.raises(ModelChanged):
        state.from_text(state.to_text(short), TRAFFIC)


def test_an_oversized_string_is_refused_before_it_is_decoded():
    nonsense = "!" * (4 * state.text_length(TRAFFIC) + 1)  # to decode it would be InvalidInput
    with pytest.raises(TooLarge, match=rf"{len(nonsense)} characters.*{state.text_length(TRAFFIC)}"):
        state.from_text(nonsense, TRAFFIC)


LIES = {
    "magic": (b"CSSX", 1, 1, 0, 0, TRAFFIC.digest, 26, 0),
    "newer format": (b"CSST", 2, 1, 0, 0, TRAFFIC.digest, 26, 0),
    "other dtype": (b"CSST", 1, 2, 0, 0, TRAFFIC.digest, 26, 0),
    "more values than there are": (b"CSST", 1, 1, 0, 0, TRAFFIC.digest, 27, 0),
    "fewer values than there are": (b"CSST", 1, 1, 0, 0, TRAFFIC.digest, 25, 0),
    "values for all the memory there is": (b"CSST", 1, 1, 0, 0, TRAFFIC.digest, 2**62, 0),
    "position beyond the largest": (b"CSST", 1, 1, 0, state.MAX_POSITION + 1, TRAFFIC.digest, 26, 0),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_header_that_lies_is_refused_though_its_seal_is_right(lie):
    body = HEADER.pack(*lie) + VALUES.tobytes()
    with pytest.raises(CorruptState):
        state.unpack(state.verify_mac(state.append_mac(body)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sealed_state_that_is_not_finite_is_refused(value):
    broken = VALUES.copy()
    broken[3] = value
    with pytest.raises(InvalidInput, match="not finite"):
        state.from_text(state.to_text(State(broken, 0, TRAFFIC.digest)), TRAFFIC)


@given(st.text(max_size=300))
def test_no_text_whatever_is_taken_for_a_state(text):
    with pytest.raises((InvalidInput, TooLarge)):
        state.from_text(text, TRAFFIC)


@given(st.binary(max_size=300))
def test_no_bytes_whatever_break_the_reader(junk):
    with pytest.raises(CorruptState):
        state.unpack(junk)
    with pytest.raises(InvalidInput):
        state.from_text(base64.urlsafe_b64encode(state.append_mac(junk)).decode(), TRAFFIC)
