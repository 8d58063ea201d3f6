"""The session table: total, and walked cell by cell; docs/sessions.md prints it (test_docs)."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from handlers.errors import SessionError
from handlers.protocols.native.decode import SessionRef
from handlers.sessions import machine as sessions
from handlers.sessions.machine import ACTIONS, REMEDY, TABLE, Event, Move, Phase
from handlers.sessions.record import Record
from handlers.sessions.state import State

OURS, THEIRS = bytes(range(16)), bytes(range(16, 32))
APPLIED, ANOTHER = b"a" * 16, b"b" * 16  # digests of requests
NOW, TTL, TOMBSTONE = 1_000.0, 60.0, 30.0
LIVE = Record(State(np.ones(4, np.float32), 7, OURS), 900.0, NOW + TTL, 5, APPLIED, b'"prediction":[1]')

RECORDS: dict[Phase, Record | None] = {
    Phase.ABSENT: None,
    Phase.LIVE: LIVE,
    Phase.FOREIGN: replace(LIVE, state=replace(LIVE.state, digest=THEIRS)),
    Phase.CLOSED: replace(LIVE, closed=True, expires_at=NOW - 1),
    Phase.EXPIRED: replace(LIVE, expires_at=NOW - 1),
}
CELLS = list(itertools.product(Event, Phase))
every_cell = pytest.mark.parametrize(("event", "phase"), CELLS, ids=[f"{e.value}-{p.value}" for e, p in CELLS])


def test_the_table_is_total():
    assert set(TABLE) == set(Event)
    assert all(set(row) == set(Phase) for row in TABLE.values())


ASKING = {
    Event.START: (SessionRef("meter-7", 0), '"step": 0'),
    Event.NEXT: (SessionRef("meter-7"), "a next step"),
    Event.REPEAT: (SessionRef("meter-7", 5), '"step": 5'),
    Event.ELSEWHERE: (SessionRef("meter-7", 3), '"step": 3'),
    **{event: (SessionRef("meter-7", action=action), f'"action": "{action}"') for action, event in ACTIONS.items()},
}


@every_cell
def test_every_cell_is_a_move_or_an_error_that_names_event_state_and_session(event, phase):
    record, cell, (ref, asked) = RECORDS[phase], TABLE[event][phase], ASKING[event]
    if isinstance(cell, Move):
        assert sessions.decide(event, phase, "meter-7", ref, record) is cell
        return
    with pytest.raises(SessionError) as caught:
        sessions.decide(event, phase, "meter-7", ref, record)
    assert type(caught.value) is cell
    for part in (asked, phase.value, "meter-7", REMEDY[cell]):
        assert part in caught.value.message
    live = phase in (Phase.LIVE, Phase.FOREIGN)
    assert caught.value.details == {"session": "meter-7"} | ({"expected": 7} if live else {})


NEEDS_A_RECORD = set(Move) - {Move.CREATE, Move.BEAR}


@every_cell
def test_only_where_there_is_a_record_it_is_read(event, phase):
    """The moves that answer from a record are granted in no phase without one; a fresh start is granted nowhere alive."""
    cell = TABLE[event][phase]
    assert phase is not Phase.ABSENT or cell not in NEEDS_A_RECORD
    assert cell not in (Move.CREATE, Move.BEAR) or phase in (Phase.ABSENT, Phase.EXPIRED)


@pytest.mark.parametrize("event", Event)
def test_a_state_of_another_model_is_never_run(event):
    assert TABLE[event][Phase.FOREIGN] is not Move.APPLY


def test_every_refusal_has_a_remedy():
    refusals = {cell for row in TABLE.values() for cell in row.values() if not isinstance(cell, Move)}
    assert set(REMEDY) == refusals


@pytest.mark.parametrize("phase", Phase)
def test_a_records_phase_is_read_off_the_clock_the_tombstone_and_the_model(phase):
    assert sessions.phase(RECORDS[phase], NOW, OURS, TOMBSTONE) is phase


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (LIVE.expires_at, Phase.LIVE),
        (LIVE.expires_at + 0.001, Phase.EXPIRED),
        (LIVE.expires_at + TOMBSTONE, Phase.EXPIRED),
        (LIVE.expires_at + TOMBSTONE + 0.001, Phase.ABSENT),
    ],
)
def test_a_session_is_live_up_to_its_time_and_remembered_up_to_its_tombstones(now, phase):
    assert sessions.phase(LIVE, now, OURS, TOMBSTONE) is phase


def test_a_tombstone_past_its_time_is_absent_though_no_sweep_came_by():
    assert sessions.phase(RECORDS[Phase.CLOSED], NOW + TOMBSTONE, OURS, TOMBSTONE) is Phase.ABSENT


ASKED = [
    ("at its position", SessionRef("a", 7), ANOTHER, Event.NEXT),
    ("without a step", SessionRef("a"), ANOTHER, Event.NEXT),
    ("without a step, and equal to the last", SessionRef("a"), APPLIED, Event.NEXT),
    ("the last one again", SessionRef("a", 5), APPLIED, Event.REPEAT),
    ("the last one's step, another request", SessionRef("a", 5), ANOTHER, Event.ELSEWHERE),
    ("behind", SessionRef("a", 3), APPLIED, Event.ELSEWHERE),
    ("amid the last one", SessionRef("a", 6), APPLIED, Event.ELSEWHERE),
    ("ahead", SessionRef("a", 8), APPLIED, Event.ELSEWHERE),
    ("from the start", SessionRef("a", 0), APPLIED, Event.START),
]


@pytest.mark.parametrize(("ref", "digest", "event"), [case[1:] for case in ASKED], ids=[case[0] for case in ASKED])
def test_what_a_step_asks_of_a_live_session(ref, digest, event):
    assert sessions.event(ref, digest, LIVE, Phase.LIVE) is event


@pytest.mark.parametrize("phase", [Phase.ABSENT, Phase.EXPIRED])
@pytest.mark.parametrize(
    ("ref", "event"),
    [(SessionRef("a", 0), Event.START), (SessionRef(), Event.START), (SessionRef("a"), Event.NEXT), (SessionRef("a", 5), Event.ELSEWHERE)],
)
def test_what_a_step_asks_of_a_session_that_is_not_there(phase, ref, event):
    assert sessions.event(ref, APPLIED, RECORDS[phase], phase) is event


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_asks_the_same_wherever_the_session_is(action):
    assert {sessions.event(SessionRef("a", action=action), ANOTHER, RECORDS[phase], phase) for phase in Phase} == {ACTIONS[action]}


def test_a_rewind_sent_again_is_a_repeat_only_while_the_session_is_as_it_left_it():
    left, ref = replace(LIVE, last_step=LIVE.state.position), SessionRef("a", 7, "rewind")
    assert sessions.event(ref, APPLIED, left, Phase.LIVE) is Event.REPEAT
    assert sessions.event(ref, ANOTHER, left, Phase.LIVE) is Event.REWIND
    assert sessions.event(ref, APPLIED, LIVE, Phase.LIVE) is Event.REWIND


def test_a_fork_or_import_sent_again_is_a_repeat_only_while_what_it_made_is_untouched():
    made = replace(LIVE, last_step=LIVE.state.position)
    ref = SessionRef("a", action="import")
    assert sessions.begotten(ref, APPLIED, made, Phase.LIVE) is Event.REPEAT
    assert sessions.begotten(ref, ANOTHER, made, Phase.LIVE) is Event.BEGET
    assert sessions.begotten(ref, APPLIED, LIVE, Phase.LIVE) is Event.BEGET
    assert sessions.begotten(ref, APPLIED, None, Phase.ABSENT) is Event.BEGET


def test_a_time_is_shown_in_utc_to_the_second():
    assert sessions.timestamp(1_800_000_000.9) == "2027-01-15T08:00:00Z"
