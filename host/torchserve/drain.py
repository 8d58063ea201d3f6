"""Drain a running TorchServe: refuse new requests and wait until those accepted before are answered."""

import time
from collections.abc import Sequence

from handlers.engine.drain import DrainLock
from host.torchserve.management import Management

POLL = 0.1  # seconds between two looks at a queue
LAST_ANSWERS = 0.2  # seconds in which TorchServe passes on the replies that its workers have given


def drain(lock: DrainLock, management: Management, models: Sequence[str], deadline: float) -> bool:
    """Drain until the monotonic time `deadline`; whether all accepted requests were answered.

    The workers finish their batches, then TorchServe's queue empties through workers that refuse, then the last refusals are finished.
    """
    finished = lock.drain(deadline) and all(_queue_empties(management, model, deadline) for model in models) and lock.drain(deadline)
    time.sleep(LAST_ANSWERS)
    return finished


def _queue_empties(management: Management, model: str, deadline: float) -> bool:
    while time.monotonic() < deadline:
        if management.queue_is_empty(model):
            return True
        time.sleep(POLL)
    return False
