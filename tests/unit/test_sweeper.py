"""When the clean-up runs: not too often, soon again when there is much to do, and whatever the clock does."""

import pytest

from handlers.errors import StoreUnavailable
from handlers.metrics import Telemetry
from handlers.sessions.sweeper import Sweeper
from handlers.settings import Settings
from handlers.stores.base import Swept
from tests.support.store_wrappers import Wrapped

SLICE = 100


class Scripted(Wrapped):
    """A store whose every slice removes `removes` entries, in `takes` seconds; with `removes` None it fails after them."""

    def __init__(self, removes=0, takes=0.0):
        super().__init__(None)
        self.removes, self.takes, self.slices, self.seconds = removes, takes, 0, 0.0

    def sweep(self, now, limit):
        self.slices += 1
        self.seconds += self.takes
        if self.removes is None:
            raise StoreUnavailable("store: it hangs")
        return Swept([b""] * self.removes, [], True)


def slices(store, *times):
    sweeper = Sweeper(store, Settings(sweep_interval=10.0, sweep_slice=SLICE), Telemetry(), 1_000.0, lambda: store.seconds)
    for now in times:
        sweeper.run_if_due(now)
    return store.slices


def test_one_slice_an_interval():
    assert slices(Scripted(), 1_001.0, 1_009.9, 1_010.0, 1_011.0, 1_019.9, 1_020.0) == 2


@pytest.mark.parametrize(("removes", "expected"), [(0, 1), (9, 1), (10, 2), (SLICE, 2)])
def test_a_slice_that_removed_much_is_followed_soon(removes, expected):
    assert slices(Scripted(removes), 1_010.0, 1_015.0) == expected


@pytest.mark.parametrize("removes", [None, 0, SLICE], ids=["fails", "finds nothing", "finds much"])
def test_a_slice_that_takes_long_is_followed_late(removes):
    """Two seconds, as long as a store that hangs is waited for: never more than a tenth of a worker's time."""
    seconds = [1_010.0 + n for n in range(100)]
    assert slices(Scripted(removes, takes=2.0), *seconds) == 5


def test_a_clock_that_is_set_back_does_not_stop_the_sweep():
    assert slices(Scripted(), 1_010.0, 500.0, 505.0, 510.0) == 3
