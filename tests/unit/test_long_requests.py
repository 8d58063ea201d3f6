"""Long requests take turns: within a batch up to a number of steps, and among the workers of a server one at a time."""

import numpy as np
import pytest

from handlers.engine.long_requests import RUN_STEPS, LongRequests
from handlers.engine.request import Request
from handlers.engine.task import Task
from handlers.keys import ANYONE, Caller


def task(steps, horizon=0, paths=0, caller=ANYONE):
    return Task(Request(np.zeros((steps, 1), np.float32), horizon=horizon, paths=paths), None, caller)


def admitted(turns, tasks):
    return turns.admit(turns.among(tasks))


def long_requests(path="", free=10):
    return LongRequests(str(path), long_steps=10, free_steps=free, max_steps=30)


@pytest.mark.parametrize("path", ["", "turns"])
def test_a_batch_takes_long_requests_up_to_its_number_of_steps_and_every_short_one(tmp_path, path):
    turns = long_requests(tmp_path / path if path else "")
    long, far, short, more, fits, sampled = task(15), task(1, horizon=14), task(9), task(10), task(10), task(1, horizon=2, paths=4)
    with admitted(turns, [long, far, short, more, short, fits, sampled]) as refused:
        assert list(map(id, refused)) == [id(far), id(fits), id(sampled)]


def test_the_first_long_request_runs_however_long_it_is():
    turns = long_requests()
    endless, other = task(1_000), task(10)
    with admitted(turns, [endless, other]) as refused:
        assert refused == [other]


def test_rollouts_of_one_batch_share_their_model_runs():
    horizon = 10
    one, other, third = (task(1, horizon=horizon) for _ in range(3))
    turns = LongRequests("", long_steps=10, free_steps=10, max_steps=2 * (1 + horizon) + RUN_STEPS * horizon)
    with admitted(turns, [one, other, third]) as refused:
        assert refused == [third]


def test_of_two_workers_one_runs_many_long_requests_and_the_other_as_many_as_are_free(tmp_path):
    one, other = (long_requests(tmp_path / "turns", free=25) for _ in range(2))
    long, more, short = task(15), task(15), task(1)
    with admitted(one, [long, more]) as refused:
        assert not refused
        with admitted(other, [long, short, more]) as refused:
            assert list(map(id, refused)) == [id(more)]
        with admitted(other, [long, short]) as refused:
            assert not refused
    with admitted(other, [long, short, more]) as refused:
        assert not refused


def test_a_worker_within_what_is_free_leaves_the_turn_to_another(tmp_path):
    one, other = (long_requests(tmp_path / "turns", free=15) for _ in range(2))
    long, longer = task(15), task(30)
    with admitted(one, [long]), admitted(other, [longer]) as refused:
        assert not refused


def test_those_come_first_whose_callers_had_the_fewest_steps_lately():
    now = [0.0]
    turns = LongRequests("", long_steps=10, free_steps=10, max_steps=30, clock=lambda: now[0])
    greedy, modest = Caller("greedy"), Caller("modest")
    many = [task(10, caller=greedy) for _ in range(6)]
    last = task(12, caller=modest)
    with admitted(turns, [*many, last]) as refused:
        assert list(map(id, refused)) == list(map(id, many[1:])), "22 of 30 steps: another 10 do not fit"
    with admitted(turns, [task(10, caller=greedy), first := task(10, caller=modest), *many[:2]]) as refused:
        assert id(first) not in map(id, refused)
    now[0] += 60
    with admitted(turns, [first := task(25, caller=greedy), other := task(10, caller=modest)]) as refused:
        assert list(map(id, refused)) == [id(other)], "what was long ago does not count"
