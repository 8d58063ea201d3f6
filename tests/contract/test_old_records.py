"""A store that the release before wrote: every session in it is read, answers its last request again, and goes on."""

from pathlib import Path

import numpy as np
import orjson
import pytest

from handlers.engine.context import ServiceContext
from handlers.sessions.record import FORMAT, Record
from handlers.settings import Settings
from handlers.stores.base import Change, Entry
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, answer
from tests.support.adder import ADDER, Adder
from tests.support.in_process import InProcess
from tests.support.requests import act, step

WRITTEN = orjson.loads((Path(__file__).parent / "golden" / "store-format-1.json").read_bytes())
REQUESTS = WRITTEN["requests"]  # what was sent, and how the release before answered
LAST = {request["session"]["id"]: (request, reply) for request, reply in REQUESTS}
STEPS = {id: pair for id, pair in LAST.items() if "inputs" in pair[0]}
ACTIONS = {request["session"]["action"]: (request, reply) for request, reply in REQUESTS if "action" in request["session"]}


@pytest.fixture
def store():
    filled = MemoryStore()
    entries = [(key.encode(), Entry(*head, bytes.fromhex(value))) for key, (*head, value) in WRITTEN["entries"].items()]
    assert all(filled.commit_many([Change(key, None, entry) for key, entry in entries]))
    return filled


@pytest.fixture
def service(store):
    return InProcess(ServiceContext(Adder(), ADDER, store, Settings(store="memory://", keep_versions=2, rewarm_steps=4)), Clock())


def told(reply):
    """A reply without what the release before did not say."""
    session = {name: value for name, value in reply["session"].items() if name not in ("replayed", "generation")}
    return {name: value for name, value in reply.items() if name not in ("session", "model")} | {"session": session}


@pytest.mark.parametrize("id", STEPS)
def test_the_last_step_sent_again_has_the_same_answer(service, id):
    request, reply = STEPS[id]
    again = answer(service, request)
    assert again["session"]["replayed"] is True
    assert told(again) == told(reply)


@pytest.mark.parametrize("action", ["fork", "import", "rewind"])
def test_an_action_sent_again_is_a_repeat(service, action):
    request, reply = ACTIONS[action]
    again = answer(service, request)
    assert again["session"]["replayed"] is True
    assert told(again) == told(reply)


@pytest.mark.parametrize(
    ("id", "at", "total"),
    [("plain", 3, 6), ("everything", 3, 3.1), ("forecast", 2, 2.5), ("forked", 2, 11), ("imported", 2, 11), ("rewound", 1, 1)],
)
def test_a_stream_goes_on_where_it_was_and_is_written_in_the_format_of_today(service, store, id, at, total):
    reply = answer(service, step(id, at, np.array([0.5], np.float32)))
    assert reply["prediction"] == pytest.approx([total + 0.5, at + 1], abs=1e-6)
    [(_, entry)] = store.scan(f"adder/{id}".encode())
    assert entry.value[4] == FORMAT


def test_earlier_positions_and_recent_inputs_are_still_there(service, store):
    assert answer(service, {"session": {"id": "plain", "action": "rewind", "step": 2}})["session"]["generation"] == 1
    assert answer(service, step("plain", 2, np.array([4.0], np.float32)))["prediction"] == [7, 3]
    [(_, entry)] = store.scan(b"adder/forecast")
    assert Record.decode(entry.value).state.recent.inputs.tolist() == [[2.0], [0.5]]


def test_a_closed_session_is_still_closed(service):
    assert answer(service, act("closed", "close"))["session"]["closed"] is True
