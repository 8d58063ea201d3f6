"""A clock that is wrong for a while costs no session."""

from contextlib import closing

import pytest

from handlers.clock import ClockGuard
from handlers.stores.lmdb import EmbeddedStore
from tests.conftest import answer, make_service
from tests.support.requests import act, position, step

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


@pytest.mark.parametrize("apart", [-2 * DAY, 2 * DAY], ids=["behind", "ahead"])
def test_a_clock_that_was_wrong_when_the_machine_started_and_is_set_right_costs_no_session(two, machine, apart):
    """A session that was used since is not taken for expired when the right time is believed at last."""
    x = two.sequence(4)
    machine.wall += apart
    service = machine.worker()
    answer(service, step("a", 0, x[:1]))
    machine.wall -= apart
    for n in range(1, 3):
        machine.passes(1_000.0)
        answer(service, step("a", n, x[n : n + 1]))
        answer(service, step(f"new-{n}", 0, x[:1]))
    answer(service, act("new-1", "close"))
    for _ in range(20):
        machine.passes(400.0)
        answer(service, {"inputs": x.tolist()})  # sweeps
    assert answer(service, step("a", 3, x[3:]))["session"]["step"] == 4
    assert position(service, "new-2") == 1


def test_sessions_still_expire_by_a_clock_that_jumped_and_stayed(two, machine):
    x = two.sequence(1)
    service = machine.worker()
    answer(service, step("a", 0, x))
    machine.wall += DAY - 3_000.0
    assert position(service, "a") == 1
    machine.passes(3_601.0)
    assert position(service, "a") == "session_expired"


@pytest.mark.parametrize("apart", [-3_000.0, -30.0, 30.0, 3_000.0])
def test_servers_over_one_store_whose_clocks_are_apart_lose_and_repeat_no_step(two, kind, tmp_path, apart):
    """Each server adds its own clock's time to live: while that is far longer than the clocks are apart, no session expires early."""
    now, x = [4_000_000_000.0], two.sequence(40)  # later than Valkey's own clock, which forgets by itself
    with closing(kind.open(tmp_path)) as store:
        clocks = (lambda: now[0], lambda: now[0] + apart)
        servers = [make_service(two, store=store, clock=clock, session_ttl=DAY, tombstone_ttl=3_600.0) for clock in clocks]
        for n in range(40):
            now[0] += 600.0
            reply = answer(servers[n % 2], step("a", n, x[n : n + 1]))["session"]
            again = answer(servers[(n + 1) % 2], step("a", n, x[n : n + 1]))["session"]
            assert (reply["step"], again["step"], again["replayed"]) == (n + 1, n + 1, True)


def test_a_server_whose_clock_is_ahead_by_more_than_the_time_to_live_says_expired_and_deletes_nothing_yet(two, tmp_path):
    """The difference that the page on operations warns of: clocks of servers must not be further apart than sessions live."""
    x, ahead = two.sequence(2), DAY + 600.0
    with closing(EmbeddedStore(str(tmp_path), 16 << 20)) as store:
        right, wrong = [
            make_service(two, store=store, clock=lambda at=at: at, session_ttl=DAY, tombstone_ttl=3_600.0) for at in (START, START + ahead)
        ]
        answer(right, step("a", 0, x[:1]))
        assert position(wrong, "a") == "session_expired"
        assert answer(right, step("a", 1, x[1:]))["session"]["step"] == 2
