"""The session table: total, and walked cell by cell; docs/sessions.md prints it (test_docs)."""

import itertools

import numpy as np
import pytest
from msgspec.structs import replace

from handlers.errors import SessionError
from handlers.sessions import machine
from handlers.sessions.machine import ALIVE, OPERATIONS, REMEDY, TABLE, Operation, Phase, PhaseRules, Transition
from handlers.sessions.recent import UNKNOWN, empty, layout
from handlers.sessions.record import Record
from handlers.sessions.reference import NAMED_ACTIONS, Action, SessionRef
from handlers.sessions.state import State
from handlers.sessions.status import timestamp

OURS, THEIRS = bytes(range(16)), bytes(range(16, 32))
APPLIED, ANOTHER = b"a" * 16, b"b" * 16  # hashes of requests
NOW, TTL, TOMBSTONE = 1_000.0, 60.0, 30.0
LAYOUT, OTHER = layout("abc", "1h"), layout("xyz", "1h")
RULES = PhaseRules(OURS, TOMBSTONE, 2, frozenset({LAYOUT}), columns=3, version="1.0")
LIVE = Record(State(np.ones(4, np.float32), 7, OURS), 900.0, NOW + TTL, 5, APPLIED, 1, version="1.0", generation=2)
FOREIGN = replace(LIVE, state=replace(LIVE.state, digest=THEIRS))


def recent(known, layout=LAYOUT, begins=False, columns=3):
    inputs = empty(2, columns, layout, begins)
    return inputs.followed_by(np.zeros((known, columns) if columns else known, np.float32 if columns else np.int64))


def keeping(inputs):
    """The session of another model with these recent inputs."""
    return replace(FOREIGN, state=replace(FOREIGN.state, recent=inputs))


RECORDS: dict[Phase, Record | None] = {
    Phase.ABSENT: None,
    Phase.LIVE: LIVE,
    Phase.REWARMABLE: keeping(recent(2)),
    Phase.MISMATCH: FOREIGN,
    Phase.CLOSED: replace(LIVE, closed=True, expires_at=NOW - 1),
    Phase.EXPIRED: replace(LIVE, expires_at=NOW - 1),
}
CELLS = list(itertools.product(Operation, Phase))
every_cell = pytest.mark.parametrize(("asked", "phase"), CELLS, ids=[f"{o.value}-{p.value}" for o, p in CELLS])


def ref(step=None, action=Action.STEP, **more):
    return SessionRef("meter-7", step, action, **more)


def test_the_table_is_total():
    assert set(TABLE) == set(Operation)
    assert all(set(row) == set(Phase) for row in TABLE.values())


def test_every_action_has_its_operation():
    assert set(OPERATIONS) == set(NAMED_ACTIONS) == set(Action) - {Action.STEP}


REFS = {
    Operation.START: (ref(0), '"step": 0'),
    Operation.RESTART: (ref(0, restart=True), '"step": 0'),
    Operation.NEXT: (ref(), "a next step"),
    Operation.REPEAT_STEP: (ref(5), '"step": 5'),
    Operation.WRONG_STEP: (ref(3, generation=1), '"step": 3 with "generation": 1'),
    Operation.REPEAT_ACTION: (ref(3, Action.REWIND), '"action": "rewind"'),
    **{asked: (ref(action=action), f'"action": "{action}"') for action, asked in OPERATIONS.items()},
}


@every_cell
def test_every_cell_is_a_transition_or_an_error_that_names_request_phase_and_session(asked, phase):
    record, cell, (named, words) = RECORDS[phase], TABLE[asked][phase], REFS[asked]
    if isinstance(cell, Transition):
        assert machine.decide(asked, phase, "meter-7", named, record) is cell
        return
    with pytest.raises(SessionError) as caught:
        machine.decide(asked, phase, "meter-7", named, record)
    assert type(caught.value) is cell
    for part in (words, phase.value, "meter-7", REMEDY[cell]):
        assert part in caught.value.message
    details = {"session": "meter-7"}
    if phase in ALIVE:
        details |= {"expected": 7, "generation": 2} | ({"version": "1.0"} if cell.code == "model_changed" else {})
        assert "at step 7 of generation 2" in caught.value.message
    assert caught.value.details == details


CREATING = (Transition.CREATE, Transition.CREATE_FROM_STATE)


@every_cell
def test_transitions_that_need_a_record_are_granted_only_where_there_is_one(asked, phase):
    cell = TABLE[asked][phase]
    assert phase is not Phase.ABSENT or not isinstance(cell, Transition) or cell in CREATING
    assert cell not in CREATING or phase in (Phase.ABSENT, Phase.EXPIRED) or asked is Operation.RESTART


@pytest.mark.parametrize("asked", Operation)
def test_a_state_of_another_model_is_never_run(asked):
    assert TABLE[asked][Phase.MISMATCH] not in (Transition.APPLY, Transition.REWARM)
    assert TABLE[asked][Phase.REWARMABLE] is not Transition.APPLY


def test_every_refusal_has_a_remedy():
    refusals = {cell for row in TABLE.values() for cell in row.values() if not isinstance(cell, Transition)}
    assert set(REMEDY) == refusals


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_follows_from_the_record_the_time_and_the_model(phase):
    assert RULES.phase(RECORDS[phase], NOW) is phase


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        recent(1),
        recent(0, begins=True),
        recent(2, OTHER),
        recent(2, UNKNOWN, columns=4),
        recent(2, UNKNOWN, columns=0),
    ],
    ids=["none", "too few", "none yet", "other features", "more features, of an earlier release", "token ids, of an earlier release"],
)
def test_recent_inputs_that_do_not_suffice_make_no_session_rewarmable(inputs):
    assert RULES.phase(keeping(inputs), NOW) is Phase.MISMATCH


def test_the_inputs_that_an_earlier_release_kept_are_as_good():
    assert RULES.phase(keeping(recent(2, UNKNOWN)), NOW) is Phase.REWARMABLE


def test_recent_inputs_are_of_use_only_where_rewarming_is_on():
    assert replace(RULES, rewarm_steps=0).phase(RECORDS[Phase.REWARMABLE], NOW) is Phase.MISMATCH


@pytest.mark.parametrize(("ours", "phase"), [("0.9", Phase.MISMATCH), ("1.0", Phase.REWARMABLE), ("1.1", Phase.REWARMABLE)])
def test_a_session_is_rewarmed_by_a_model_of_no_lower_version(ours, phase):
    assert replace(RULES, version=ours).phase(RECORDS[Phase.REWARMABLE], NOW) is phase


def test_a_stream_shorter_than_the_window_is_rewarmable_from_its_start():
    assert RULES.phase(keeping(recent(1, begins=True)), NOW) is Phase.REWARMABLE


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
    assert RULES.phase(LIVE, now) is phase


def test_a_tombstone_past_its_time_is_absent_whether_or_not_it_was_swept():
    assert RULES.phase(RECORDS[Phase.CLOSED], NOW + TOMBSTONE) is Phase.ABSENT


STEPS = {
    "at its position": (ref(7), ANOTHER, Operation.NEXT),
    "at its position and generation": (ref(7, generation=2), ANOTHER, Operation.NEXT),
    "at its position, of another generation": (ref(7, generation=1), ANOTHER, Operation.WRONG_STEP),
    "without a step": (ref(), ANOTHER, Operation.NEXT),
    "without a step, of another generation": (ref(generation=3), ANOTHER, Operation.WRONG_STEP),
    "without a step, and equal to the last": (ref(), APPLIED, Operation.NEXT),
    "the last one again": (ref(5), APPLIED, Operation.REPEAT_STEP),
    "the last one again, after a rewind to here": (ref(5, generation=1), APPLIED, Operation.REPEAT_STEP),
    "the last one again, as if it had been sent later": (ref(5, generation=2), APPLIED, Operation.WRONG_STEP),
    "the last one's step, another request": (ref(5), ANOTHER, Operation.WRONG_STEP),
    "behind": (ref(3), APPLIED, Operation.WRONG_STEP),
    "amid the last one": (ref(6), APPLIED, Operation.WRONG_STEP),
    "ahead": (ref(8), APPLIED, Operation.WRONG_STEP),
    "from the start": (ref(0), APPLIED, Operation.START),
}


@pytest.mark.parametrize(("named", "request_hash", "asked"), STEPS.values(), ids=STEPS.keys())
def test_what_a_step_asks_of_a_live_session(named, request_hash, asked):
    assert machine.operation(named, request_hash, LIVE, Phase.LIVE) is asked


@pytest.mark.parametrize("phase", [Phase.ABSENT, Phase.EXPIRED])
@pytest.mark.parametrize(
    ("named", "asked"),
    [(ref(0), Operation.START), (SessionRef(), Operation.START), (ref(), Operation.NEXT), (ref(5), Operation.WRONG_STEP)],
)
def test_what_a_step_asks_of_a_session_that_is_not_there(phase, named, asked):
    assert machine.operation(named, APPLIED, RECORDS[phase], phase) is asked


@pytest.mark.parametrize("phase", Phase)
def test_a_restart_asks_the_same_wherever_the_session_is(phase):
    assert machine.operation(ref(0, restart=True, generation=1), APPLIED, RECORDS[phase], phase) is Operation.RESTART


@pytest.mark.parametrize("action", NAMED_ACTIONS)
def test_an_action_asks_the_same_wherever_the_session_is(action):
    found = {machine.operation(ref(action=action), ANOTHER, RECORDS[phase], phase) for phase in Phase}
    assert found == {OPERATIONS[action]}


REWINDS = {
    "": ({}, ANOTHER, Operation.REWIND),
    "from where it is": ({"from_step": 7}, ANOTHER, Operation.REWIND),
    "from elsewhere": ({"from_step": 6}, ANOTHER, Operation.WRONG_STEP),
    "of its generation": ({"generation": 2}, ANOTHER, Operation.REWIND),
    "of another generation": ({"generation": 1}, ANOTHER, Operation.WRONG_STEP),
    "sent again": ({"generation": 1, "from_step": 9}, APPLIED, Operation.REPEAT_ACTION),
}


@pytest.mark.parametrize(("more", "request_hash", "asked"), REWINDS.values(), ids=REWINDS.keys())
def test_what_a_rewind_asks(more, request_hash, asked):
    left = replace(LIVE, rewind_hash=APPLIED)
    assert machine.operation(ref(5, Action.REWIND, **more), request_hash, left, Phase.LIVE) is asked


def test_a_fork_or_import_sent_again_is_a_repeat_only_while_what_it_made_is_untouched():
    made = replace(LIVE, last_step=LIVE.state.position)
    for record, request_hash, phase, asked in (
        (made, APPLIED, Phase.LIVE, Operation.REPEAT_ACTION),
        (made, ANOTHER, Phase.LIVE, Operation.CREATE_FROM_STATE),
        (made, APPLIED, Phase.EXPIRED, Operation.CREATE_FROM_STATE),
        (LIVE, APPLIED, Phase.LIVE, Operation.CREATE_FROM_STATE),
        (None, APPLIED, Phase.ABSENT, Operation.CREATE_FROM_STATE),
    ):
        assert machine.creation(request_hash, record, phase) is asked
        assert machine.operation(ref(action=Action.IMPORT), request_hash, record, phase) is asked


def test_a_time_is_shown_in_utc_to_the_second():
    assert timestamp(1_800_000_000.9) == "2027-01-15T08:00:00Z"
