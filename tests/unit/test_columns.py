"""Records as columns: read and written together they are what they are one by one, whatever stands beside them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_digest

from handlers.sessions.columns import NewRecords, read_alike
from handlers.sessions.machine import UNSAID, Operation, Phase, PhaseRules, next_steps, operation
from handlers.sessions.record import Record, pack_arrays
from handlers.sessions.reference import SessionRef
from handlers.sessions.state import MAX_POSITION, CorruptState, State
from tests.unit.test_record import DIGEST, parts, records

MANY = 24


def step(i: int, position: int = 9, version: str = "1.0", closed: bool = False, forecast: bytes = b"") -> Record:
    """The record that a step leaves; no two are equal."""
    state = State(np.array([i, i + 1], np.float32), position + i, DIGEST, forecast)
    answer = pack_arrays({"prediction": np.array([i, -i], np.float32)})
    hash = bytes(15) + bytes([i])  # ends in a zero, where i does
    return Record(state, i + 0.5, i + 1.5, position + i - 1, hash[::-1], i % 3, answer, version, hash, i % 5, closed)


def compare(values: Sequence[bytes | None]) -> list[int]:
    """Check what is read against each record decoded by itself, and return which were read."""
    chosen, rows = read_alike(values)
    for i, row in zip(chosen, rows, strict=True):
        value = values[i]
        assert value is not None
        record = Record.decode(value)
        assert not record.closed
        assert record.kept == ()
        assert record.state.recent is None or row["recent"].tobytes() == record.state.recent.rows.tobytes()
        times, state = (record.created_at, record.expires_at), record.state
        assert (row["created_at"], row["expires_at"], row["last_step"], row["generation"]) == (*times, record.last_step, record.generation)
        assert (row["position"], row["digest"].tobytes()) == (state.position, state.digest)
        assert row["values"].tobytes() == state.values.tobytes()
    return chosen


@pytest.mark.parametrize("forecast", [b"", b"\0", b"seventeen bytes \0"])
def test_the_records_of_steps_are_read_together(forecast: bytes) -> None:
    assert compare([step(i, forecast=forecast).encode() for i in range(MANY)]) == list(range(MANY))


@given(st.lists(st.none() | records.map(Record.encode), min_size=1, max_size=MANY))
def test_of_records_of_any_kind_those_are_read_that_are_alike(values: list[bytes | None]) -> None:
    compare(values)


ODD = {
    "closed": step(0, closed=True).encode(),
    "of another model": step(0).encode().replace(DIGEST, bytes(16)),
    "damaged": step(0).encode()[:-20] + bytes(20),
    "beyond the last position": step(0, position=MAX_POSITION + 1).encode(),
    "of no format": bytes(len(step(0).encode())),
    "cut short": step(0).encode()[:50],
    "longer": step(0, version="1.0.0").encode(),
    "empty": b"",
    "not there": None,
}


def test_records_are_read_among_sessions_that_are_mostly_not_there() -> None:
    values = [step(i).encode() for i in range(9)]
    assert compare([*[None] * MANY, *values, b"", *[None] * MANY]) == list(range(MANY, MANY + 9))
    assert compare([None] * MANY) == []


def test_a_memory_of_forecasts_that_is_longer_than_it_says_is_left_out() -> None:
    values = [step(i, forecast=b"four").encode() for i in range(MANY)]
    broken = values[1][:-8].replace(b"\4\0four", b"\5\0four")
    values[1] = broken + xxh3_64_digest(broken)
    with pytest.raises(CorruptState):
        Record.decode(values[1])
    assert compare(values) == [0, *range(2, MANY)]


@pytest.mark.parametrize("place", [1, MANY - 1])
@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_one_that_is_otherwise_is_left_out(value: bytes | None, place: int) -> None:
    values: list[bytes | None] = [step(i).encode() for i in range(MANY)]
    values[place] = value
    assert compare(values) == [i for i in range(MANY) if i != place]


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_a_first_one_that_is_otherwise_spoils_no_answer(value: bytes | None) -> None:
    compare([value, *[step(i).encode() for i in range(MANY)]])


def test_records_of_one_closed_session_after_the_other_are_left_out() -> None:
    assert compare([step(i, closed=True).encode() for i in range(MANY)]) == []


@pytest.mark.parametrize("forecast", [b"", np.arange(3, dtype=np.float32).tobytes()])
def test_new_records_are_written_as_each_by_itself(forecast: bytes) -> None:
    expected = [step(i, forecast=forecast) for i in range(MANY)]
    new = NewRecords(step(0, forecast=forecast), MANY)
    for name in ("created_at", "expires_at", "last_step", "last_generation", "generation"):
        new.rows[name] = [getattr(record, name) for record in expected]
    for name in ("last_hash", "rewind_hash"):
        new.rows[name] = np.frombuffer(b"".join(getattr(record, name) for record in expected), "V16")
    new.rows["position"] = [record.state.position for record in expected]
    new.rows["values"] = [record.state.values for record in expected]
    new.floats("answer", (2,))[...] = [[i, -i] for i in range(MANY)]
    if forecast:
        new.floats("forecast", (3,))[...] = np.arange(3)
    assert [parts(Record.decode(value)) for value in new.encode()] == [parts(record) for record in expected]
    assert new.encode() == [record.encode() for record in expected]


small = st.integers(0, 3)
refs = st.builds(SessionRef, st.just("a"), st.none() | small, generation=st.none() | small)


@given(st.lists(st.tuples(refs, small, small, small, st.booleans(), st.booleans()), min_size=1, max_size=9), st.integers(1, 3))
def test_the_next_steps_are_those_of_the_table(rows: list[tuple[SessionRef, int, int, int, bool, bool]], length: int) -> None:
    """Whatever is let through for many is let through for each; what is not is, of the next steps, only what follows no step."""
    made = []
    for _, position, last, generation, is_ours, is_expired in rows:
        state = State(np.zeros(2, np.float32), position, DIGEST if is_ours else bytes(16))
        made.append(Record(state, 0.0, 5.0 if is_expired else 15.0, last, answer=b"a", version="1", generation=generation))
    rules, now = PhaseRules(DIGEST, tombstone_ttl=100.0), 10.0
    for record, (ref, *_) in zip(made, rows, strict=True):
        chosen, read = read_alike([record.encode()])
        assert chosen == [0]
        [is_next] = next_steps(rules, read, [ref], length, now).tolist()
        phase = rules.phase(record, now)
        follows = (operation(ref, bytes(16), record, phase), phase) == (Operation.NEXT, Phase.LIVE)
        assert is_next == (follows and record.last_step != record.state.position)


def test_a_step_beyond_the_last_position_is_no_next_one() -> None:
    rules = PhaseRules(DIGEST, 1.0)
    _, rows = read_alike([step(0, MAX_POSITION - 1).encode()])
    asked = [SessionRef("a", MAX_POSITION - 1)]
    assert [next_steps(rules, rows, asked, length, 0.0).tolist() for length in (1, 2)] == [[True], [False]]
    assert UNSAID < 0
