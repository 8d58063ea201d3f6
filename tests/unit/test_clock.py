"""The clock guard: small corrections are followed, jumps are not until they have lasted."""

import time

import pytest

from handlers.clock import TOLERANCE, ClockGuard

HOUR = 3_600.0
START = 1_800_000_000.0


class Machine:
    """A wall clock and an uptime that a test moves."""

    def __init__(self, reference=None):
        self.wall, self.up, self.jumps, self.reference = START, 5_000.0, 0, reference
        self.restart()

    def restart(self):
        """A new worker."""
        self.guard = ClockGuard(HOUR, self._jumped, lambda: self.wall, lambda: self.up, self.reference)

    def _jumped(self):
        self.jumps += 1

    def passes(self, seconds):
        self.wall += seconds
        self.up += seconds
        return self.guard()


@pytest.fixture
def machine():
    return Machine()


def test_it_is_the_wall_clock_while_that_runs_steadily(machine):
    assert [machine.passes(n) for n in (0.0, 1.0, 86_400.0)] == [START, START + 1, START + 86_401]


@pytest.mark.parametrize("correction", [0.5, -0.5, TOLERANCE - 1, 1 - TOLERANCE])
def test_a_small_correction_is_followed_at_once_and_many_of_them_too(machine, correction):
    for _ in range(100):
        machine.wall += correction
        assert machine.passes(600.0) == machine.wall
    assert machine.jumps == 0


@pytest.mark.parametrize("jump", [48 * HOUR, -48 * HOUR])
def test_time_goes_on_from_before_a_jump_and_the_clock_is_followed_when_it_is_set_back(machine, jump, caplog):
    machine.wall += jump
    assert [machine.passes(10.0) for _ in range(3)] == [START + 10, START + 20, START + 30]
    machine.wall -= jump
    assert machine.passes(10.0) == machine.wall == START + 40
    assert machine.jumps == 1
    assert caplog.text.count("clock_jumped") == 1


def test_a_jump_that_lasts_is_believed(machine, caplog):
    machine.wall += 48 * HOUR
    assert machine.passes(0.0) == START
    assert machine.passes(HOUR - 1) == START + HOUR - 1
    assert machine.passes(2.0) == machine.wall
    assert "clock_jump_confirmed" in caplog.text
    assert machine.passes(2.0) == machine.wall
    assert machine.jumps == 1


def test_a_jump_that_is_followed_by_another_is_doubted_anew(machine):
    machine.wall += 48 * HOUR
    machine.passes(HOUR - 1)
    machine.wall += 48 * HOUR
    assert machine.passes(2.0) == START + HOUR + 1
    assert machine.jumps == 2


def test_a_worker_that_starts_while_the_clock_is_wrong_does_not_believe_it(tmp_path):
    machine = Machine(tmp_path / "sessions" / "clock.json")
    machine.wall += 48 * HOUR
    machine.restart()
    assert machine.passes(10.0) == START + 10
    machine.wall -= 48 * HOUR
    machine.restart()
    assert machine.passes(10.0) == machine.wall
    assert machine.jumps == 1


def test_what_was_confirmed_is_believed_by_later_workers(tmp_path):
    machine = Machine(tmp_path / "clock.json")
    machine.wall += 48 * HOUR
    machine.passes(0.0)
    machine.passes(HOUR)
    machine.restart()
    assert machine.passes(10.0) == machine.wall


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"boot": "of another uptime", "offset": 5}', "{"], ids=range(5))
def test_a_reference_that_says_nothing_of_this_uptime_is_replaced(tmp_path, text):
    path = tmp_path / "clock.json"
    path.write_text(text)
    machine = Machine(path)
    assert machine.passes(1.0) == machine.wall
    machine.wall += 48 * HOUR
    machine.restart()
    assert machine.passes(1.0) == START + 2


def test_a_reference_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    machine = Machine(tmp_path / "file" / "clock.json")
    assert machine.passes(1.0) == machine.wall
    assert "clock_reference_not_written" in caplog.text


def test_it_reads_the_clocks_of_this_machine():
    assert ClockGuard(HOUR)() == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("wrong", [48 * HOUR, -48 * HOUR])
def test_a_worker_that_started_at_a_wrong_time_believes_the_clock_once_it_agrees_with_another_machines(machine, wrong, caplog):
    machine.wall += wrong
    machine.restart()
    machine.guard.witness(machine.wall - wrong)
    assert machine.passes(10.0) == machine.wall, "there is nothing else to believe: the store refuses this clock"
    machine.wall -= wrong
    assert machine.passes(0.0) == machine.wall + wrong
    machine.guard.witness(machine.wall + 200.0)
    assert machine.passes(0.0) == machine.wall
    assert "clock_jump_confirmed" in caplog.text


def test_a_jump_that_lasts_is_not_believed_while_another_machines_clock_contradicts(machine):
    machine.wall += 48 * HOUR
    for _ in range(20):
        assert machine.passes(HOUR / 2) == machine.wall - 48 * HOUR
        machine.guard.witness(machine.wall - 48 * HOUR - 200.0)
    machine.passes(HOUR + 1)
    assert machine.passes(1.0) == machine.wall, "the other machine has been silent for an hour"
    assert machine.jumps == 1


def test_a_witness_to_a_clock_that_did_not_jump_changes_nothing(machine):
    machine.guard.witness(START + 48 * HOUR)
    assert machine.passes(5.0) == START + 5
    assert machine.jumps == 0
