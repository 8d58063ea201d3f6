"""Long requests take turns: within a batch up to a number of steps, and among the workers of a server one at a time."""

import numpy as np
import pytest

from handlers.engine.long_requests import LongRequests
from handlers.engine.request import Request
from handlers.engine.task import Task


def task(steps, horizon=0, paths=0):
    return Task(Request(np.zeros((steps, 1), np.float32), horizon=horizon, paths=paths), None)


@pytest.mark.parametrize("path", ["", "turns"])
def test_a_batch_takes_long_requests_up_to_its_number_of_steps_and_every_short_one(tmp_path, path):
    turns = LongRequests(str(tmp_path / path) if path else "", long_steps=10, max_steps=30)
    long, far, short, more, fits, sampled = task(15), task(1, horizon=14), task(9), task(10), task(10), task(1, horizon=2, paths=4)
    with turns.admit([long, far, short, more, short, fits, sampled]) as refused:
        assert list(map(id, refused)) == [id(more), id(fits), id(sampled)]


def test_the_first_long_request_runs_however_long_it_is():
    turns = LongRequests("", long_steps=10, max_steps=30)
    endless, other = task(1_000), task(10)
    with turns.admit([endless, other]) as refused:
        assert refused == [other]


def test_of_two_workers_one_runs_long_requests_and_the_other_short_ones(tmp_path):
    one, other = (LongRequests(str(tmp_path / "turns"), long_steps=10, max_steps=30) for _ in range(2))
    long, short = task(10), task(1)
    with one.admit([long]):
        with other.admit([long, short]) as refused:
            assert refused == [long]
        with other.admit([short]) as refused:
            assert not refused
    with other.admit([long, short]) as refused:
        assert not refused
