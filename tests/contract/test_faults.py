"""Whatever fails in the store, at whatever call: no stream is ever wrong, and a client that sends again gets where the offline run is."""

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, assert_close, make_service
from tests.support import eager
from tests.support.faulty_store import AFTER, FAULTS, HALF, READ, Faulty, insist, once
from tests.support.requests import act, contents, position, step

IDS, STEPS = ("a", "b", "c", "d"), 3
CALLS = 2 * STEPS + 1  # of one batch a step: a read and a commit each; at the end no fault is met any more


@pytest.fixture
def store(kind, tmp_path):
    with closing(kind.open(tmp_path)) as opened:
        yield opened


def stream(model, service, ids=IDS):
    """All sessions step by step, each with inputs of its own, in common batches; how many answers were replays. Each is checked."""
    replayed = 0
    sequences = {id: model.sequence(STEPS, seed) for seed, id in enumerate(ids)}
    for n in range(STEPS):
        replies = insist(service, *(step(id, n, x[n : n + 1], **{"return": ["prediction", "h_n"]}) for id, x in sequences.items()))
        for (id, x), reply in zip(sequences.items(), replies, strict=True):
            expected = eager.run(model.model, x[: n + 1])
            assert reply["session"]["step"] == n + 1
            replayed += reply["session"]["replayed"]
            assert_close(reply["prediction"], expected.prediction, f"prediction of {id} at step {n}")
            assert_close(reply["h_n"], expected.h_n, f"h_n of {id} at step {n}")
    return replayed


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("index", range(CALLS))
def test_one_fault_at_any_call_leaves_every_stream_right(two, store, fault, index):
    faulty = Faulty(store, once(index, fault))
    replayed = stream(two, make_service(two, store=faulty))
    assert faulty.faults == (index < 2 * STEPS and (index % 2 == 0) == (fault == READ))
    assert replayed == faulty.faults * {AFTER: len(IDS), HALF: len(IDS) // 2}.get(fault, 0)
    clean = make_service(two, store=store)
    assert [position(clean, id) for id in IDS] == [STEPS] * len(IDS)
    assert store.check() == []


@given(st.lists(st.sampled_from([None, *FAULTS]), max_size=40))
@settings(max_examples=60)
def test_any_row_of_faults_leaves_every_stream_right(two, plan):
    store = MemoryStore()
    stream(two, make_service(two, store=Faulty(store, lambda n: plan[n] if n < len(plan) else None)), ids=("a", "b"))
    assert {position(make_service(two, store=store), id) for id in ("a", "b")} == {STEPS}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_that_gives_up_leaves_the_session_before_or_after_the_step_and_never_between(two, store, fault):
    """Its position tells which: the next step from there goes on as the offline run does."""
    x = two.sequence(7)
    answer(make_service(two, store=store), step("a", 0, x[:2]))
    faulty = make_service(two, store=Faulty(store, lambda n: fault))
    body = [step("a", 2, x[2:5]), step("b", 0, x[:1]), step("c", 0, x[:1])]
    assert [status for status, _ in ask(faulty, *body)] == [503] * 3
    service = make_service(two, store=store)
    at = position(service, "a")
    assert at in (2, 5)
    reply = answer(service, step("a", at, x[at:], **{"return": ["h_n"]}))
    assert_close(reply["h_n"], eager.run(two.model, x).h_n, f"h_n, carried on from step {at}")
    for id in ("b", "c"):
        assert position(service, id) in (1, "session_not_found")


SCRIPT = (  # every kind of change that a client can cause, one batch a line
    lambda x: [step("a", 0, x[:2]), step("z", 0, x[:1])],
    lambda x: [act("a", "fork", to="b"), step("z", 1, x[1:2])],
    lambda x: [step("b", 2, x[2:3]), step("a", 2, x[3:4]), step("z", 2, x[2:3])],
    lambda x: [act("z", "close"), step("b", 3, x[3:4]), step("c", 0, x[:1])],
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("index", range(2 * len(SCRIPT)))
def test_fork_and_close_survive_one_fault_at_any_call_too(two, store, fault, index):
    x = two.sequence(4)
    calm = MemoryStore()
    for lines in SCRIPT:
        insist(make_service(two, store=calm), *lines(x))
    service = make_service(two, store=Faulty(store, once(index, fault)))
    for lines in SCRIPT:
        insist(service, *lines(x))
    found, expected = contents(store), contents(calm)
    assert found.keys() == expected.keys()
    assert {key: entry.value for key, entry in found.items()} == {key: entry.value for key, entry in expected.items()}
