"""What a request does to its session, one function for each transition of the session table.

A transition that needs the model sets the task's `run`; every other one answers at once and puts what it changes into the unit of work. The
reply is always made before the record is put: what cannot be answered must not be committed.
"""

from collections.abc import Callable

import numpy as np

from handlers.arrays import Array, Vector
from handlers.engine.batch import Batch
from handlers.engine.request import IMPUTED, OPAQUE, Result, take_intervals, take_maker
from handlers.engine.streams import last_time, prepare, recent_inputs, scores, stream_time, times
from handlers.engine.task import ModelRun, Task
from handlers.errors import InvalidInput, SessionUnreadable
from handlers.sessions import machine
from handlers.sessions.machine import Transition
from handlers.sessions.record import Record, unpack_arrays
from handlers.sessions.state import CorruptState, State
from handlers.sessions.status import SessionStatus, described, status
from handlers.sessions.unit_of_work import LoadedSession


def plan(batch: Batch, task: Task) -> None:
    """Decide what the request does, and do all of it that needs no model run.

    Raises:
        CellstateError: the request is refused; nothing is changed.
    """
    request, context = task.request, batch.context
    ref, state = request.session, request.state
    if ref is None:
        task.run = ModelRun(_inputs(task), _initial(batch, state), state.position if state else 0)
    else:
        session = batch.sessions[task.names[0]]
        phase = context.rules.phase(session.record, batch.now)
        asked = machine.operation(ref, task.request_hash, session.record, phase)
        task.transition = machine.decide(asked, phase, task.id, ref, session.record)
        TRANSITIONS[task.transition](batch, task, session)
    if task.run is not None and (request.missing or context.timeline is not None or context.judge is not None):
        prepare(batch, task, task.run)


def _inputs(task: Task) -> Array:
    assert task.request.inputs is not None  # the codec demands inputs of a step
    return task.request.inputs


def _initial(batch: Batch, state: State | None) -> Vector:
    return batch.context.signature.initial_state if state is None else state.values


def _recorded(session: LoadedSession) -> Record:
    assert session.record is not None  # the table grants such transitions only where there is a record
    return session.record


def _version(batch: Batch, record: Record) -> str:
    """The version of the model that made the state and the last answer; records of format 1 do not tell it."""
    return record.version or batch.context.signature.version


def _create(batch: Batch, task: Task, session: LoadedSession) -> None:
    if task.request.commit:
        batch.admit(session.name)
    generation = session.record.generation + 1 if task.ref.restart and session.record is not None else 0
    task.run = ModelRun(_inputs(task), _initial(batch, task.request.state), 0, generation=generation)


def _apply(batch: Batch, task: Task, session: LoadedSession) -> None:
    record = _recorded(session)
    task.run = ModelRun(_inputs(task), record.state.values, record.state.position, record)


def _rewarm(batch: Batch, task: Task, session: LoadedSession) -> None:
    """Run the recent inputs through this model from the start of a stream, then the request's."""
    record = _recorded(session)
    recent = recent_inputs(batch.context, record)
    inputs = np.concatenate([recent, _inputs(task)])
    task.run = ModelRun(inputs, _initial(batch, None), record.state.position, record, rewarmed=len(recent))


def _replay(batch: Batch, task: Task, session: LoadedSession) -> None:
    record = _recorded(session)
    try:
        arrays = unpack_arrays(record.answer)
    except CorruptState as e:
        raise SessionUnreadable(f"session {task.id}: its record cannot be read ({e}); it was left as it is", session=task.id) from e
    opaque, imputed = arrays.pop(OPAQUE, None), int(arrays.pop(IMPUTED, 0))
    intervals = take_intervals(arrays)
    version, digest = take_maker(arrays) or (_version(batch, record), record.state.digest)
    state = None if opaque is None else State(opaque, record.state.position, digest)
    closes = task.request.close and not record.closed
    if closes:
        record = record.tombstone(batch.latest)
    time = stream_time(batch.context, record)
    at = times(batch.context, time, task.request.horizon)
    after = status(task.id, record, replayed=True)
    task.reply = task.call.encode(Result(version, arrays, state, after, at, imputed, intervals))
    if closes:
        batch.sessions.put(session.name, record)


def _describe(batch: Batch, task: Task, session: LoadedSession) -> None:
    record = _recorded(session)
    context = batch.context
    rewarm = context.rewarming.described(record.state.recent)
    _answer(batch, task, described(task.id, record, scores(context, record), last_time(context, record), rewarm))


def _export(batch: Batch, task: Task, session: LoadedSession) -> None:
    """Answer with the state, and with the version of the model that made it, which may be another than this one."""
    record = _recorded(session)
    task.reply = task.call.encode(Result(_version(batch, record), {}, record.state, status(task.id, record)))


def _confirm(batch: Batch, task: Task, session: LoadedSession) -> None:
    _answer(batch, task, status(task.id, _recorded(session), replayed=True))


def _read(batch: Batch, task: Task, session: LoadedSession) -> None:
    _answer(batch, task, status(task.id, _recorded(session)))


def _rewind(batch: Batch, task: Task, session: LoadedSession) -> None:
    record, step = _recorded(session), task.ref.step
    assert step is not None  # the codec demands a step of a rewind
    target = batch.sessions.state_at(session.name, step)
    if target is None:
        kept = ", ".join(map(str, (record.state.position, *record.kept)))
        keep_versions = batch.context.settings.keep_versions
        raise InvalidInput(f"session.step: {step} is not kept; kept: {kept} (keep_versions is {keep_versions})")
    rewound = record.rewound(target, task.request_hash, batch.expires_at)
    _answer(batch, task, status(task.id, rewound))
    batch.sessions.put(session.name, rewound)


def _fork(batch: Batch, task: Task, session: LoadedSession) -> None:
    """Copy the state into the session that the fork creates, which has a row of its own in the table."""
    source, target_id = _recorded(session), task.ref.to
    assert target_id is not None  # the codec demands one
    target = batch.sessions[task.names[1]]
    phase = batch.context.rules.phase(target.record, batch.now)
    asked = machine.creation(task.request_hash, target.record, phase)
    task.transition = machine.decide(asked, phase, target_id, task.ref, target.record)
    if task.transition is Transition.CONFIRM:
        _answer(batch, task, status(target_id, _recorded(target), replayed=True))
        return
    _put_new(batch, task, target, target_id, source.state, source.version, copied_from=session.name)
    task.depends_on = (target.name,)  # a source that loses its own commit takes the copy along


def _create_from_state(batch: Batch, task: Task, session: LoadedSession) -> None:
    assert task.request.state is not None  # the codec demands a state of an import
    _put_new(batch, task, session, task.id, task.request.state, batch.context.signature.version)


def _put_new(
    batch: Batch,
    task: Task,
    session: LoadedSession,
    id: str,
    state: State,
    version: str,
    copied_from: str | None = None,
) -> None:
    batch.admit(session.name)
    record = Record(state, batch.now, batch.expires_at, state.position, task.request_hash, version=version)
    _answer(batch, task, status(id, record))
    batch.sessions.put(session.name, record, copied_from)


def _close(batch: Batch, task: Task, session: LoadedSession) -> None:
    closed = _recorded(session).tombstone(batch.latest)
    _answer(batch, task, status(task.id, closed))
    batch.sessions.put(session.name, closed)


def _answer(batch: Batch, task: Task, session: SessionStatus, state: State | None = None) -> None:
    task.reply = task.call.encode(Result(batch.context.signature.version, {}, state, session))


TRANSITIONS: dict[Transition, Callable[[Batch, Task, LoadedSession], None]] = {
    Transition.CREATE: _create,
    Transition.APPLY: _apply,
    Transition.REWARM: _rewarm,
    Transition.REPLAY: _replay,
    Transition.DESCRIBE: _describe,
    Transition.EXPORT: _export,
    Transition.CONFIRM: _confirm,
    Transition.READ: _read,
    Transition.REWIND: _rewind,
    Transition.FORK: _fork,
    Transition.CREATE_FROM_STATE: _create_from_state,
    Transition.CLOSE: _close,
}
