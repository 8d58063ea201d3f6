"""Whatever is sent, in whatever order: an answer or a refusal, never a defect of ours, and never a state that is not a number."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.sessions import state
from handlers.sessions.record import Record
from handlers.sessions.state import State
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, ask, make_service
from tests.support.json_strategies import ANYTHING, bodies, requests


def held(model):
    """Strategies for states that a client may hold, or make up."""
    signature = model.signature
    finite, size = st.floats(width=32, allow_nan=False, allow_infinity=False), signature.state_length
    values = st.lists(finite, min_size=size, max_size=size)
    digests = st.sampled_from([signature.digest, bytes(16)])
    packed = st.builds(lambda v, p, d: state.to_text(State(np.array(v, np.float32), p, d)), values, st.integers(0, 2**53), digests)
    return st.one_of(packed, packed, ANYTHING)


def test_no_sequence_of_bodies_whatever_is_a_5xx(two, exported):
    """Two versions of a model take turns, and sessions keep all that they can keep."""

    @settings(max_examples=150)
    @given(st.lists(st.lists(bodies(requests(3, held(two))), min_size=1, max_size=4), max_size=4))
    def any_conversation(batches):
        clock, store = Clock(), MemoryStore()
        kept = {"session_ttl": 3.0, "tombstone_ttl": 2.0, "sweep_interval": 1.0, "keep_versions": 2, "rewarm_steps": 3}
        versions = [make_service(model, store=store, clock=clock, **kept) for model in (two, exported("retrained"))]
        for service, batch in zip(itertools.cycle(versions), batches, strict=False):
            for status, reply in ask(service, *batch):
                assert status in (200, 400, 404, 409, 410, 413, 422), reply
                inner = [item["error"]["code"] for item in reply.get("predictions", []) if "error" in item]
                assert not {"internal_error", "session_unreadable"} & set(inner)
            clock.now += 1.5
        for _, entry in store.scan(b""):
            assert np.isfinite(Record.decode(entry.value).state.values).all()

    any_conversation()
