"""Rollouts: every prediction is fed back, rows of different horizons share runs, and nothing of one row reaches another."""

from dataclasses import replace

import numpy as np
import pytest

from handlers.forecasting.rollout import RolloutRow, rollout
from handlers.inference.backends.base import BackendError
from handlers.inference.batching import DeadlineExceeded
from tests.support.adder import ADDER, PER_STEP, POISON, Adder


def row(total, count, horizon):
    """As the adder leaves it after inputs that sum up to `total`: h is the sum and its opposite, c counts up and down."""
    state = np.array([total, -total, count, count, count, -count, -count, -count], np.float32)
    return RolloutRow(np.array([total, count], np.float32), state, horizon)


EXPECTED = {3: [[3, 2], [6, 3], [12, 4]], 1: [[5, 1]], 2: [[7, 1], [14, 2]]}


@pytest.mark.parametrize(("signature", "per"), [(ADDER, "sequence"), (PER_STEP, "step")], ids=["sequence", "step"])
@pytest.mark.parametrize("max_batch", [1, 2, 64])
def test_each_prediction_is_fed_back(signature, per, max_batch):
    rows = [row(3, 2, 3), row(5, 1, 1), row(7, 1, 2)]
    states = [one.state.copy() for one in rows]
    forecasts = rollout(Adder(per), signature, rows, max_batch)
    assert [made.forecast.tolist() for made in forecasts] == list(EXPECTED.values())
    for one, state in zip(rows, states, strict=True):
        np.testing.assert_array_equal(one.state, state, "a rollout moved the state it started from")


def test_a_horizon_costs_one_run_a_step_for_all_rows_that_reach_it():
    backend = Adder()
    rollout(backend, ADDER, [row(1, 1, 2), row(1, 1, 4), row(1, 1, 4), row(1, 1, 1)], 64)
    assert backend.shapes == [(3, 1), (2, 1), (2, 1)]


def test_inputs_known_in_advance_stand_beside_what_is_fed_back():
    known = replace(ADDER, features=("planned", "sum"), feedback={"sum": "sum"})
    seen = []

    class Watched(Adder):
        def run(self, x, states, want_output):
            seen.append(x[:, 0].tolist())
            return super().run(x[:, :, 1:], states, want_output)

    rows = [row(3, 2, 3), row(5, 1, 2)]
    rows[0].future, rows[1].future = np.array([[10], [20], [30]], np.float32), np.array([[40], [50]], np.float32)
    rollout(Watched(), known, rows, 64)
    assert seen == [[[10, 3], [40, 5]], [[20, 6]]], "the last row of `future` belongs to the last forecast"


def test_a_row_that_the_runtime_refuses_spoils_no_other():
    good, bad = rollout(Adder(), ADDER, [row(3, 1, 3), row(POISON, 1, 3)], 64)
    assert good.forecast.tolist() == [[3, 1], [6, 2], [12, 3]]
    assert isinstance(bad, BackendError)


def test_a_rollout_beyond_its_deadline_gives_up():
    assert [type(result) for result in rollout(Adder(), ADDER, [row(3, 1, 3), row(4, 1, 2)], 64, deadline=0.0)] == [DeadlineExceeded] * 2


def test_no_rows_are_no_runs():
    backend = Adder()
    assert rollout(backend, ADDER, [], 64) == []
    assert backend.shapes == []
