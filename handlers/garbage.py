"""Tunes what frees memory in a process that serves batches: Python's cyclic garbage collector, and the allocator of the C library."""

import ctypes
import gc

YOUNG_OBJECTS = 200_000  # above what one batch keeps alive, so that no collection runs inside a batch
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of `mallopt`
KEPT_BYTES = 64 << 20  # of free memory at the end of the heap: more than one batch takes
LARGE_BYTES = 32 << 20  # from which on memory is taken from the system and given back; the highest that glibc allows


def tune() -> None:
    """Exempt all that is loaded from later collections, make collections rare, and keep freed memory. Call it when the service is ready.

    By default a collection starts after 700 objects more than were freed, which a large batch reaches dozens of times, and every tenth
    walks the modules of the runtimes too. The objects of a batch are freed by their reference counts; only exceptions make cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the next batch use the memory that the last one freed, instead of giving it back to the system after each."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc has it, other C libraries have other rules
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
