"""When the clean-up runs: not too often, soon again when there is much to do, and whatever the clock does."""

import pytest

from handlers.settings import Settings
from handlers.stores import Entry, Swept
from handlers.sweeping import Sweeper
from handlers.telemetry import Telemetry
from tests.contract.wrappers import Wrapped

SLICE = 100


class Scripted(Wrapped):
    """A store whose every slice removes `removes` entries."""

    def __init__(self, removes=0):
        super().__init__(None)
        self.removes, self.slices = removes, 0

    def sweep(self, now, limit):
        self.slices += 1
        return Swept([Entry(1, 0.0, b"")] * self.removes, [], True)


def slices(store, *times):
    sweeper = Sweeper(store, Settings(sweep_interval=10.0, sweep_slice=SLICE), Telemetry(), 1_000.0)
    for now in times:
        sweeper.run_if_due(now)
    return store.slices


def test_one_slice_an_interval():
    assert slices(Scripted(), 1_001.0, 1_009.9, 1_010.0, 1_011.0, 1_019.9, 1_020.0) == 2


@pytest.mark.parametrize(("removes", "expected"), [(0, 1), (9, 1), (10, 2), (SLICE, 2)])
def test_a_slice_that_removed_much_is_followed_soon(removes, expected):
    assert slices(Scripted(removes), 1_010.0, 1_015.0) == expected


def test_a_clock_that_is_set_back_does_not_stop_the_sweep():
    assert slices(Scripted(), 1_010.0, 500.0, 505.0, 510.0) == 3
