"""Tunes Python's cyclic garbage collector for a process that serves batches."""

import gc

YOUNG_OBJECTS = 200_000  # above what one batch keeps alive, so that no collection runs inside a batch


def tune() -> None:
    """Exempt all that is loaded from later collections, and make collections rare. Call it when the service is ready.

    By default a collection starts after 700 objects more than were freed, which a large batch reaches dozens of times, and every tenth
    walks the modules of the runtimes too. The objects of a batch are freed by their reference counts; only exceptions make cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
