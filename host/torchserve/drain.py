"""Drain a running TorchServe: refuse new requests and wait until those accepted before are answered."""

import contextlib
import time

from handlers.engine.drain import DrainLock
from host.ports import HostError
from host.torchserve.management import Management

POLL = 0.1  # seconds between two looks at the queues
LAST_ANSWERS = 0.2  # seconds in which TorchServe passes on the replies that its workers have given


def drain(lock: DrainLock, management: Management, deadline: float) -> bool:
    """Drain until the monotonic time `deadline`; whether all accepted requests were answered.

    The workers finish their batches, then TorchServe's queues empty through workers that refuse, then the last refusals are finished.
    """
    finished = lock.drain(deadline) and _queues_empty(management, deadline) and lock.drain(deadline)
    time.sleep(LAST_ANSWERS)
    return finished


def _queues_empty(management: Management, deadline: float) -> bool:
    while time.monotonic() < deadline:
        with contextlib.suppress(HostError):
            if all(management.queue_is_empty(version) for version in management.versions()):
                return True
        time.sleep(POLL)
    return False
