"""Rows in a batch: each gets what it would get alone, whatever their lengths and whoever fails beside them."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.inference import batching
from handlers.inference.batching import DeadlineExceeded, join, split
from tests.support.adder import ADDER, PER_STEP, POISON, WHOLE, Adder, Overflowing

FORMS = {"sequence": ADDER, "step": PER_STEP}
lengths = st.lists(st.integers(1, 7), min_size=1, max_size=8)
wholes = st.integers(0, 100).map(float)  # exactly representable: sums are the same in any order


def run(sequences, signature=ADDER, wanted=None, max_batch=64, backend=None, deadline=float("inf")):
    """Row i starts from a state that is all i."""
    inputs = [np.array(values, np.float32)[:, None] for values in sequences]
    states = np.repeat(np.arange(len(inputs), dtype=np.float32)[:, None], signature.state_length, axis=1)
    wanted = [False] * len(inputs) if wanted is None else wanted
    return batching.run(backend or Adder(signature.output_mode), signature, inputs, states, wanted, max_batch, deadline)


def alone(values, signature=ADDER, want_output=False, start=0):
    """One row's y, output and state."""
    inputs, state = [np.array(values, np.float32)[:, None]], np.full((1, signature.state_length), start, np.float32)
    results = batching.run(Adder(signature.output_mode), signature, inputs, state, [want_output], 64)
    return results.y[0], results.output[0], results.states[0]


def assert_row(results, i, expected):
    assert results.errors[i] is None
    for actual, wanted in zip((results.y[i], results.output[i], results.states[i]), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_join_undoes_split(rows, random):
    values = np.array([[random.random() for _ in range(ADDER.state_length)] for _ in range(rows)], np.float32)
    arrays = split(values, ADDER)
    assert [a.shape for a in arrays] == [(2, rows, 1), (2, rows, 3)]
    assert all(a.flags.c_contiguous for a in arrays)
    joined = np.empty_like(values)
    join(arrays, joined)
    np.testing.assert_array_equal(joined, values)


def test_split_puts_each_value_where_the_signature_says():
    h, c = split(np.arange(16, dtype=np.float32).reshape(2, 8), ADDER)
    assert h[:, 0].tolist() == [[0], [1]]
    assert c[:, 0].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert c[:, 1].tolist() == [[10, 11, 12], [13, 14, 15]]


@pytest.mark.parametrize("per", FORMS)
@given(st.lists(st.lists(wholes, min_size=1, max_size=7), min_size=1, max_size=8), st.integers(1, 5), st.data())
def test_ragged_rows_together_are_each_row_alone(per, sequences, max_batch, data):
    wanted = data.draw(st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences)))
    backend = Adder(per)
    results = run(sequences, FORMS[per], wanted, max_batch, backend)
    for i, (values, want) in enumerate(zip(sequences, wanted, strict=True)):
        assert_row(results, i, alone(values, FORMS[per], want, start=i))
        assert (results.output[i] is not None) == want
    assert max(size for size, _ in backend.shapes) <= max_batch


def test_rows_of_different_lengths_share_runs():
    backend = Adder()
    run([[1, 2, 3], [1], [1, 2, 3], [1, 2]], backend=backend)
    assert backend.shapes == [(4, 1), (3, 1), (2, 1)]


def test_the_states_that_are_given_stay_as_they_are():
    states = np.zeros((2, ADDER.state_length), np.float32)
    batching.run(Adder(), ADDER, [np.ones((1, 1), np.float32)] * 2, states, [False] * 2, 64)
    assert not states.any()


@given(lengths)
def test_a_model_that_cannot_stream_sees_every_sequence_whole(steps):
    backend = Adder()
    results = run([range(n) for n in steps], WHOLE, backend=backend)
    assert sorted(backend.shapes) == sorted((steps.count(n), n) for n in set(steps))
    for i, n in enumerate(steps):
        assert_row(results, i, alone(range(n), WHOLE, start=i))


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6), st.integers(1, 4))
def test_a_row_that_the_runtime_refuses_fails_alone(kinds, max_batch):
    sequences = [[*range(length - 1), POISON if bad else 1.0] for length, bad in kinds]
    results = run(sequences, wanted=[True] * len(kinds), max_batch=max_batch)
    for i, (length, bad) in enumerate(kinds):
        if bad:
            assert str(results.errors[i]) == "poison"
        else:
            assert_row(results, i, alone([*range(length - 1), 1.0], want_output=True, start=i))


def test_a_row_is_finite_or_not_by_itself():
    backend = Overflowing()
    assert run([[1.0], [1000.0], [2.0]], backend=backend).finite == [True, False, True]
    assert run([[1000.0, 2.0], [1.0]], backend=backend).finite == [True, True], "the y where the neighbour ends does not count"


class Slow(Adder):
    """Its first run takes until `over`, in monotonic seconds."""

    over = 0.0

    def run(self, x, states, want_output):
        while time.monotonic() <= self.over:
            pass
        return super().run(x, states, want_output)


def test_a_batch_beyond_its_deadline_gives_up_what_is_left_and_keeps_what_is_done():
    backend, deadline = Slow(), time.monotonic() + 0.02
    backend.over = deadline
    results = run([[1.0, 2.0, 3.0], [5.0], [POISON]], backend=backend, deadline=deadline)
    assert_row(results, 1, alone([5.0], start=1))
    assert isinstance(results.errors[0], DeadlineExceeded)
    assert str(results.errors[2]) == "poison"


def test_a_row_longer_than_one_run_is_cut_and_exact():
    backend, values = Adder("step"), [float(n % 7) for n in range(2 * batching.CHUNK_STEPS + 3)]
    results = run([values, [1.0]], PER_STEP, [True, True], backend=backend)
    assert max(steps for _, steps in backend.shapes) <= batching.CHUNK_STEPS
    np.testing.assert_array_equal(results.y[0][:, 0], np.cumsum(values))
    np.testing.assert_array_equal(results.output[0][:, 0], np.cumsum(values))
