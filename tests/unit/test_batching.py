"""Rows in a batch: each gets what it would get alone, whatever their lengths and whoever fails beside them."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.inference import batching
from handlers.inference.batching import OutOfTime, Row, join, split
from tests.support.adder import ADDER, PER_STEP, POISON, WHOLE, Adder

FORMS = {"sequence": ADDER, "step": PER_STEP}
lengths = st.lists(st.integers(1, 7), min_size=1, max_size=8)
wholes = st.integers(0, 100).map(float)  # exactly representable: sums are the same in any order


def row(values, want_output=False, start=0.0):
    return Row(np.array(values, np.float32)[:, None], np.full(ADDER.state_length, start, np.float32), want_output)


def alone(values, signature=ADDER, want_output=False, start=0.0):
    one = row(values, want_output, start)
    batching.run(Adder(signature.per), signature, [one], 64)
    return one


def assert_same(actual, expected):
    assert actual.error is None
    assert expected.error is None
    for a, b in ((actual.y, expected.y), (actual.state, expected.state), (actual.output, expected.output)):
        np.testing.assert_array_equal(a, b)


@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_join_undoes_split(rows, random):
    values = np.array([[random.random() for _ in range(ADDER.state_length)] for _ in range(rows)], np.float32)
    arrays = split(values, ADDER)
    assert [a.shape for a in arrays] == [(2, rows, 1), (2, rows, 3)]
    assert all(a.flags.c_contiguous for a in arrays)
    np.testing.assert_array_equal(join(arrays), values)


def test_split_puts_each_value_where_the_signature_says():
    h, c = split(np.arange(16, dtype=np.float32).reshape(2, 8), ADDER)
    assert h[:, 0].tolist() == [[0], [1]]
    assert c[:, 0].tolist() == [[2, 3, 4], [5, 6, 7]]
    assert c[:, 1].tolist() == [[10, 11, 12], [13, 14, 15]]


@pytest.mark.parametrize("per", FORMS)
@given(st.lists(st.lists(wholes, min_size=1, max_size=7), min_size=1, max_size=8), st.integers(1, 5), st.data())
def test_ragged_rows_together_are_each_row_alone(per, sequences, max_batch, data):
    wanted = data.draw(st.lists(st.booleans(), min_size=len(sequences), max_size=len(sequences)))
    rows = [row(values, want, start=i) for i, (values, want) in enumerate(zip(sequences, wanted, strict=True))]
    backend = Adder(per)
    batching.run(backend, FORMS[per], rows, max_batch)
    for i, (values, want) in enumerate(zip(sequences, wanted, strict=True)):
        assert_same(rows[i], alone(values, FORMS[per], want, start=i))
        assert (rows[i].output is not None) == want
    assert max(size for size, _ in backend.shapes) <= max_batch


def test_rows_of_different_lengths_share_runs():
    backend = Adder()
    batching.run(backend, ADDER, [row([1, 2, 3]), row([1]), row([1, 2, 3]), row([1, 2])], 64)
    assert backend.shapes == [(4, 1), (3, 1), (2, 1)]


@given(lengths)
def test_a_model_that_cannot_stream_sees_every_sequence_whole(steps):
    backend, rows = Adder(), [row(range(n)) for n in steps]
    batching.run(backend, WHOLE, rows, 64)
    assert sorted(backend.shapes) == sorted((steps.count(n), n) for n in set(steps))
    for n, one in zip(steps, rows, strict=True):
        assert_same(one, alone(range(n)))


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=6), st.integers(1, 4))
def test_a_row_that_the_runtime_refuses_fails_alone(kinds, max_batch):
    rows = [row([*range(length - 1), POISON if bad else 1.0], want_output=True) for length, bad in kinds]
    batching.run(Adder(), ADDER, rows, max_batch)
    for (length, bad), one in zip(kinds, rows, strict=True):
        if bad:
            assert str(one.error) == "poison"
        else:
            assert_same(one, alone([*range(length - 1), 1.0], want_output=True))


def test_a_rollout_feeds_each_prediction_back():
    rows = [row([1.0, 2.0]), row([5.0]), row([7.0])]
    batching.run(Adder(), ADDER, rows, 64)
    before = [(r.state.copy(), r.y.copy()) for r in rows]
    one, two, three = batching.roll(Adder(), ADDER, [(rows[0], 3, None), (rows[1], 1, None), (rows[2], 2, None)], 64)
    assert one.tolist() == [[3, 2], [6, 3], [12, 4]]
    assert two.tolist() == [[5, 1]]
    assert three.tolist() == [[7, 1], [14, 2]]
    for r, (state, y) in zip(rows, before, strict=True):
        np.testing.assert_array_equal(r.state, state, "a rollout moved the row it started from")
        np.testing.assert_array_equal(r.y, y)


def test_a_rollout_that_the_runtime_refuses_spoils_no_other():
    rows = [row([3.0]), row([POISON + 5, -5.0])]  # the second one's prediction is the poison
    batching.run(Adder(), ADDER, rows, 64)
    good, _ = batching.roll(Adder(), ADDER, [(rows[0], 3, None), (rows[1], 3, None)], 64)
    assert good.tolist() == [[3, 1], [6, 2], [12, 3]]


class Slow(Adder):
    """Its first run takes until `over`, in monotonic seconds."""

    over = 0.0

    def run(self, x, states, want_output):
        while time.monotonic() <= self.over:
            pass
        return super().run(x, states, want_output)


def test_a_batch_out_of_time_gives_up_what_is_left_and_keeps_what_is_done():
    backend, deadline = Slow(), time.monotonic() + 0.02
    backend.over = deadline
    rows = [row([1.0, 2.0, 3.0]), row([5.0]), row([POISON])]
    batching.run(backend, ADDER, rows, 64, deadline)
    assert_same(rows[1], alone([5.0]))
    assert isinstance(rows[0].error, OutOfTime)
    assert str(rows[2].error) == "poison"


def test_a_row_longer_than_one_run_is_cut_and_exact():
    backend, values = Adder("step"), [float(n % 7) for n in range(2 * batching.PIECE + 3)]
    rows = [row(values, want_output=True), row([1.0])]
    batching.run(backend, PER_STEP, rows, 64)
    assert max(steps for _, steps in backend.shapes) <= batching.PIECE
    np.testing.assert_array_equal(rows[0].y[:, 0], np.cumsum(values))
    np.testing.assert_array_equal(rows[0].output[:, 0], np.cumsum(values))


def test_no_rows_are_no_runs():
    backend = Adder()
    batching.run(backend, ADDER, [], 64)
    assert batching.roll(backend, ADDER, [], 64) == []
    assert backend.shapes == []
