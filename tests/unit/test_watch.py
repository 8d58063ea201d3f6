"""What the watch does with what it sees: it reports changes, restarts dead workers once, and gives up in the end."""

from pathlib import Path

import pytest

from host.archives import Archive
from host.open_files import OpenFiles
from host.ports import HostError
from host.torchserve.management import DEAD, NO_ANSWER
from host.watch import GIVE_UP_AFTER, RESTART_AFTER, Watch


class Scripted:
    """A server whose model fails as the test says; `heals` is whether a restart of the workers helps."""

    def __init__(self):
        self.running, self.idle, self.heals = True, True, True
        self.archives = [Archive(Path("one.mar"), {"name": "one", "version": "1.0"})]
        self.reason, self.restarts, self.files = None, 0, OpenFiles(100, 1_000)

    def failure(self, archive):
        if isinstance(self.reason, Exception):
            raise self.reason
        return self.reason

    def log_tail(self):
        return "the last line"

    def open_files(self):
        return self.files

    def is_idle(self, archive):
        return self.idle

    def restart_workers(self, archive):
        self.restarts += 1
        if isinstance(self.heals, Exception):
            raise self.heals
        self.reason = None if self.heals else self.reason


class Night:
    """A watch that looks every two seconds."""

    def __init__(self):
        self.server, self.lines, self.now = Scripted(), [], 0.0
        self.watch = Watch(self.server, self.lines.append, lambda: self.now)

    def passes(self, seconds):
        end = self.now + seconds
        while self.now < end:
            self.watch.look()
            self.now += 2.0


@pytest.fixture
def night():
    return Night()


def test_nothing_is_said_of_a_server_that_answers(night):
    night.passes(600)
    assert night.lines == []


@pytest.mark.parametrize("reason", ["store_unavailable", "overloaded", "status 503"])
def test_a_model_that_answers_with_an_error_is_reported_and_left_alone(night, reason):
    night.server.reason = reason
    night.passes(3_600)
    night.server.reason = None
    night.passes(10)
    assert night.lines == [f"one/1.0: {reason}", "one/1.0: answers again"]
    assert night.server.restarts == 0


@pytest.mark.parametrize("reason", [DEAD, NO_ANSWER])
def test_workers_that_are_dead_or_silent_are_restarted(night, reason):
    night.server.reason = reason
    night.passes(RESTART_AFTER - 2)
    assert night.server.restarts == 0, "TorchServe restarts them itself"
    night.passes(600)
    assert night.server.restarts == 1
    assert night.lines == [f"one/1.0: {reason}", "one/1.0: restarting its workers", "one/1.0: answers again"]


def test_a_busy_model_that_does_not_answer_in_time_is_left_alone(night):
    night.server.reason, night.server.idle = NO_ANSWER, False
    night.passes(3_600)
    assert night.server.restarts == 0


@pytest.mark.parametrize(
    "heals", [False, HostError("TorchServe did not restart the workers of one/1.0 (ReadTimeout)")], ids=["in vain", "failing"]
)
def test_a_server_that_a_restart_does_not_help_is_given_up(night, heals):
    night.server.reason, night.server.heals = DEAD, heals
    with pytest.raises(HostError, match=r"one/1\.0: no worker is running for 150 s; restarting its workers did not help"):
        night.passes(600)
    assert night.server.restarts == 1
    assert night.now >= GIVE_UP_AFTER


def test_a_second_failure_is_helped_again(night):
    for restarts in (1, 2):
        night.server.reason = DEAD
        night.passes(RESTART_AFTER + 10)
        assert night.server.restarts == restarts


def test_a_server_that_does_not_say_is_given_up_too(night):
    error = HostError("TorchServe did not describe one/1.0 (ConnectError)")
    night.server.reason, night.server.heals = error, error
    with pytest.raises(HostError, match="TorchServe does not answer"):
        night.passes(600)


def test_what_is_deployed_is_watched_and_what_is_retired_is_forgotten(night):
    one, two = night.server.archives[0], Archive(Path("two.mar"), {"name": "one", "version": "2.0"})
    night.server.reason = DEAD
    night.passes(10)
    night.server.archives = [two]
    night.passes(10)
    night.server.reason, night.server.archives = None, [one]
    night.passes(10)
    assert night.lines == [f"one/1.0: {DEAD}", f"one/2.0: {DEAD}"], "nothing is said of the state in which a version was left"


def test_a_server_that_has_ended_is_given_up_at_once(night):
    night.server.running = False
    with pytest.raises(HostError, match="TorchServe ended by itself\nthe last line"):
        night.watch.look()


def test_it_is_said_once_when_open_files_become_few_and_when_there_are_enough_again(night):
    for used in (790, 800, 900, 799, 100):
        night.server.files = OpenFiles(used, 1_000)
        night.passes(10)
    night.server.files = None
    night.passes(10)
    assert night.lines == [
        "800 of 1000 open files in use: raise the limit, or let a proxy bound the connections",
        "799 of 1000 open files in use, enough again",
    ]


def test_workers_are_not_restarted_while_open_files_are_used_up_but_afterwards(night):
    night.server.reason, night.server.files = DEAD, OpenFiles(1_000, 1_000)
    night.passes(RESTART_AFTER + 20)
    assert night.server.restarts == 0
    night.server.files = OpenFiles(100, 1_000)
    night.passes(4)
    assert (night.server.restarts, night.lines[-1]) == (1, "one/1.0: answers again")


def test_a_server_whose_open_files_stay_used_up_is_given_up_and_they_are_named(night):
    night.server.reason, night.server.files = NO_ANSWER, OpenFiles(1_000, 1_000)
    with pytest.raises(HostError, match=r"no answer for 150 s; 1000 of 1000 open files in use"):
        night.passes(600)
    assert night.server.restarts == 0
