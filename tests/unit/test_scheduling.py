"""The order in which requests may run: no wave touches a session twice, and nothing overtakes within a session."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from handlers.engine.request import Request
from handlers.engine.scheduling import waves
from handlers.engine.task import Task, depending_on, touched
from handlers.keys import DEFAULT_TENANT
from handlers.sessions.reference import Action, SessionRef

ids = st.sampled_from("abc")
refs = st.one_of(
    st.none(),
    st.builds(SessionRef, ids),
    st.tuples(ids, ids).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: SessionRef(pair[0], action=Action.FORK, to=pair[1])),
)


def task(ref):
    return Task(Request(session=ref), None, names=touched(ref, DEFAULT_TENANT, ref.id) if ref else ())


@given(st.lists(refs, max_size=8))
def test_waves_hold_every_task_once_and_keep_each_sessions_order(asked):
    tasks = [task(ref) for ref in asked]
    split = waves(tasks)
    assert sorted(map(id, itertools.chain(*split))) == sorted(map(id, tasks))
    assert all(split)
    for wave in split:
        touched = [name for item in wave for name in item.names]
        assert len(set(touched)) == len(touched)
    level = {id(item): n for n, wave in enumerate(split) for item in wave}
    for first, second in itertools.combinations(tasks, 2):
        if set(first.names) & set(second.names):
            assert level[id(first)] < level[id(second)]


def test_requests_of_different_sessions_run_together():
    tasks = [task(ref) for ref in (SessionRef("a"), None, SessionRef("b"), None)]
    assert waves(tasks) == [tasks]


def test_a_fork_touches_both_its_sessions():
    fork, a, b = task(SessionRef("a", action=Action.FORK, to="b")), task(SessionRef("a")), task(SessionRef("b"))
    assert depending_on([fork, a, b], {"b"}) == [fork, b]
    assert depending_on([fork, a, b], {"a"}) == [fork, a]
