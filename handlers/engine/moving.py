"""Rebuilds the states of sessions by another version of their model without a request, as the next step of each would."""

from collections.abc import Sequence

from msgspec.structs import replace

from handlers.arrays import Array, Floats, Vector
from handlers.engine.context import ServiceContext
from handlers.engine.request import maker_array, take_maker
from handlers.engine.streams import recent_inputs
from handlers.forecasting import memory
from handlers.forecasting.memory import StreamMemory
from handlers.forecasting.missing import fed_back
from handlers.inference import batching
from handlers.sessions.machine import Phase
from handlers.sessions.record import Record, pack_arrays, unpack_arrays
from handlers.sessions.state import State

OTHERS = (Phase.REWARMABLE, Phase.MISMATCH)  # live, with the state of another version, be it a lower or a higher one


def moved(context: ServiceContext, records: Sequence[Record], now: float) -> list[Record | None]:
    """Return what is to be written for each session, None for one that this model cannot rebuild. `now` is seconds since the epoch.

    The last answer stays, so that a repeated step is answered from the record; earlier states do not, for they are of another model.
    """
    rules = context.rules
    chosen = [i for i, record in enumerate(records) if rules.phase(record, now) in OTHERS and rules.can_rebuild(record)]
    result: list[Record | None] = [None] * len(records)
    if not chosen:
        return result
    signature, inputs = context.signature, [recent_inputs(context, records[i]) for i in chosen]
    initial, outputs = [signature.initial_state] * len(chosen), [False] * len(chosen)
    found = batching.run(context.backend, signature, inputs, initial, outputs, context.settings.max_batch)
    for row, i in enumerate(chosen):
        y = found.y[row]
        if found.errors[row] is None and found.finite[row] and y is not None:
            result[i] = _successor(context, records[i], inputs[row], y, found.states[row])
    return result


def _successor(context: ServiceContext, record: Record, inputs: Array, y: Floats, values: Vector) -> Record:
    signature, before = context.signature, record.state
    assert before.recent is not None
    remembered = b""
    if signature.feedback:
        known = memory.decode(before.forecast, len(signature.feedback))
        remembered = StreamMemory(fed_back(y, signature), known.missing, known.time).encode()
    recent = context.rewarming.again(before.recent, inputs, is_timed=True)
    state = State(values, before.position, signature.digest, remembered, recent)
    return replace(record, state=state, version=signature.version, answer=_answer(record), kept=(), unstored=())


def _answer(record: Record) -> bytes:
    """Return the last answer with the model that made it, which was another than the one that the session is moved to."""
    if not record.answer or take_maker(unpack_arrays(record.answer)) is not None:
        return record.answer
    return record.answer + pack_arrays(maker_array(record.version, record.state.digest))
