"""The garbage collector of a worker: rare, but not off."""

import gc
import weakref

import pytest

from handlers import garbage


@pytest.fixture(autouse=True)
def _restored():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Cycle:
    def __init__(self):
        self.itself = self


def test_a_batch_does_not_start_a_collection():
    garbage.tune()
    before = gc.get_stats()
    batch = [[] for _ in range(100_000)]
    assert gc.get_stats() == before
    del batch


def test_cycles_are_collected_in_the_end():
    garbage.tune()
    cycle = weakref.ref(Cycle())
    for _ in range(3):
        keep = [[] for _ in range(garbage.YOUNG_OBJECTS + 1)]
        if cycle() is None:
            break
        del keep
    assert cycle() is None


def test_what_was_loaded_before_is_exempt():
    garbage.tune()
    assert gc.get_freeze_count() > 1_000
