"""Any cut of a sequence into requests gives what the whole gives, wherever the state is kept meanwhile and whoever shares the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import BACKENDS, STREAMING, answer, ask, assert_close, make_service
from tests.support import eager
from tests.support.requests import ARRAYS, step

pieces = st.lists(st.integers(1, 6), min_size=1, max_size=6)
every_model = pytest.mark.parametrize("name", STREAMING)
both_backends = pytest.mark.parametrize("backend", BACKENDS)


def cut(x, lengths):
    return np.split(x, np.cumsum(lengths)[:-1])


def assert_whole(model, x, replies, per_step):
    """The pieces' replies, put together, are the eager model's for all of x."""
    expected = eager.run(model, x)
    predictions = [reply["prediction"] for reply in replies]
    together = {
        "prediction": np.concatenate(predictions) if per_step else predictions[-1],
        "output": np.concatenate([reply["output"] for reply in replies]),
        "h_n": replies[-1]["h_n"],
        "c_n": replies[-1]["c_n"],
    }
    for field, value in together.items():
        assert_close(value, getattr(expected, field), f"{field} of {len(x)} steps in {len(replies)} pieces")


@every_model
@both_backends
def test_kept_by_the_server(exported, name, backend):
    model = exported(name)
    service = make_service(model, backend)

    @settings(max_examples=15)
    @given(pieces, st.integers(0, 99))
    def any_cut(lengths, seed):
        x, at, replies, id = model.sequence(sum(lengths), seed), 0, [], None
        for piece in cut(x, lengths):
            reply = answer(service, step(id, at, piece, **{"return": ARRAYS}))
            at, id = at + len(piece), reply["session"]["id"]
            assert reply["session"]["step"] == at
            replies.append(reply)
        assert_whole(model.model, x, replies, name == "step")

    any_cut()


@every_model
@both_backends
@pytest.mark.parametrize("form", ["arrays", "string"])
def test_kept_by_the_client(exported, name, backend, form):
    model = exported(name)
    service = make_service(model, backend)

    @settings(max_examples=10)
    @given(pieces, st.integers(0, 99))
    def any_cut(lengths, seed):
        x, replies, held = model.sequence(sum(lengths), seed), [], {}
        for piece in cut(x, lengths):
            reply = answer(service, {"inputs": piece.tolist(), "return": [*ARRAYS, "state"]} | held)
            held = {"state": reply["state"] if form == "string" else {"h_n": reply["h_n"], "c_n": reply["c_n"]}}
            replies.append(reply)
        assert_whole(model.model, x, replies, name == "step")

    any_cut()


@every_model
@both_backends
def test_a_sequence_longer_than_one_run_of_the_model(exported, name, backend):
    model = exported(name)
    x = model.sequence(1_200)
    request = step("a", 0, x, **{"return": ARRAYS})
    assert_whole(model.model, x, [answer(make_service(model, backend), request)], name == "step")


@both_backends
def test_among_neighbours_of_any_length(two, backend):
    service = make_service(two, backend)

    @settings(max_examples=20)
    @given(st.lists(pieces, min_size=2, max_size=4), st.randoms(use_true_random=False))
    def any_company(plans, random):
        streams = [two.sequence(sum(lengths), seed) for seed, lengths in enumerate(plans)]
        cuts = [cut(x, lengths) for x, lengths in zip(streams, plans, strict=True)]
        ids, replies = [None] * len(plans), [[] for _ in plans]
        while any(cuts):
            due = random.sample([k for k, left in enumerate(cuts) if left], random.randint(1, sum(map(bool, cuts))))
            requests = [step(ids[k], sum(len(r["output"]) for r in replies[k]), cuts[k].pop(0), **{"return": ARRAYS}) for k in due]
            for k, (status, reply) in zip(due, ask(service, *requests), strict=True):
                assert status == 200
                ids[k] = reply["session"]["id"]
                replies[k].append(reply)
        for x, parts in zip(streams, replies, strict=True):
            assert_whole(two.model, x, parts, per_step=False)

    any_company()


@both_backends
def test_handed_from_server_to_client_and_back(two, backend):
    """Export, carry on without a session, start a session from the state: one stream all the way."""
    service, x = make_service(two, backend), two.sequence(12)
    answer(service, step("a", 0, x[:4]))
    exported = answer(service, {"session": {"id": "a", "action": "export"}})["state"]
    held = answer(service, {"inputs": x[4:8].tolist(), "state": exported, "return": ["state"]})["state"]
    reply = answer(service, step("b", 0, x[8:], state=held, **{"return": ["prediction", "h_n", "c_n"]}))
    for field in ("prediction", "h_n", "c_n"):
        assert_close(reply[field], getattr(eager.run(two.model, x), field), field)


def test_from_one_backend_to_the_other(two):
    """A state is the model's, not the runtime's."""
    services = [make_service(two, backend) for backend in BACKENDS]
    x, held = two.sequence(10), {}
    for i, piece in enumerate(np.split(x, 5)):
        reply = answer(services[i % 2], {"inputs": piece.tolist(), "return": ["prediction", "state"]} | held)
        held = {"state": reply["state"]}
    assert_close(reply["prediction"], eager.run(two.model, x).prediction, "prediction after four changes of runtime")
