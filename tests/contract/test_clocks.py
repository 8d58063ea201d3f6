"""A clock that is wrong for a while costs no session."""

from contextlib import closing

import pytest

from handlers.clock import ClockGuard
from handlers.stores.lmdb import EmbeddedStore
from tests.conftest import answer, make_service
from tests.support.requests import position, step

DAY = 86_400.0
START = 1_800_000_000.0


class Machine:
    """A machine's two clocks, and its workers over one embedded store."""

    def __init__(self, model, folder):
        self.model, self.folder, self.wall, self.up = model, folder, START, 1_000.0
        self.store = EmbeddedStore(str(folder), 16 << 20)

    def worker(self):
        guard = ClockGuard(3_600.0, wall=lambda: self.wall, elapsed=lambda: self.up, reference=self.folder / "clock.json")
        return make_service(self.model, store=self.store, clock=guard, session_ttl=DAY, tombstone_ttl=3_600.0)

    def passes(self, seconds):
        self.wall, self.up = self.wall + seconds, self.up + seconds


@pytest.fixture
def machine(two, tmp_path):
    made = Machine(two, tmp_path)
    with closing(made.store):
        yield made


@pytest.mark.parametrize("restarted", [False, True], ids=["while it serves", "before it starts"])
def test_requests_served_while_the_clock_is_two_days_ahead_delete_no_session(two, machine, restarted):
    x = two.sequence(3)
    service = machine.worker()
    answer(service, step("a", 0, x[:1]))
    machine.wall += 2 * DAY
    service = machine.worker() if restarted else service
    for _ in range(20):
        machine.passes(10.0)  # each request sweeps a slice
        answer(service, {"inputs": x.tolist()})
    assert answer(service, step("a", 1, x[1:2]))["session"]["step"] == 2
    machine.wall -= 2 * DAY
    machine.passes(10.0)
    assert position(machine.worker(), "a") == 2


def test_sessions_still_expire_by_a_clock_that_jumped_and_stayed(two, machine):
    x = two.sequence(1)
    service = machine.worker()
    answer(service, step("a", 0, x))
    machine.wall += DAY - 3_000.0
    assert position(service, "a") == 1
    machine.passes(3_601.0)
    assert position(service, "a") == "session_expired"
