"""The memory of a worker: its garbage collector is rare, but not off, and what one batch freed serves the next."""

import ctypes
import gc
import platform
import resource
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_the_memory_of_a_batch_is_kept_for_the_next():
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        batch = [bytes(4_000) for _ in range(4_000)]
        del batch
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    garbage.tune()
    faults()
    assert faults() < 400  # pages; all of its four thousand otherwise


def test_a_c_library_without_such_a_limit_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    garbage.tune()
