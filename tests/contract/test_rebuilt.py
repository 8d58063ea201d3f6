"""By default a stream goes on when its model changes: its state is rebuilt, and is what the whole stream would have led the new version to.

The reference is the unmodified new model, run offline over all inputs of the stream. Nobody sets `rewarm_steps` here unless it is said.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from handlers.engine.moving import moved
from handlers.engine.rewarming import EXACT, Rewarming
from handlers.forecasting.observations import Timeline
from handlers.sessions.record import Record
from handlers.settings import Settings
from handlers.stores.base import Change, Entry
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, assert_close, difference, make_service, refusal
from tests.support import eager
from tests.support.requests import act, contents, step

LENGTHS = (1, 2, 5, 13, 29, 64, 97, 160, 301)  # below and beyond the memories of the models


def streamed(model, store, x, id="a", start=0, cut=7, **settings):
    """Stream x into the session, some steps at a time."""
    service = make_service(model, store=store, **settings)
    for at in range(0, len(x), cut):
        answer(service, step(id, start + at, x[at : at + cut]))


def kept(store, id):
    [value] = [entry.value for key, entry in contents(store).items() if key.endswith(f"/{id}".encode())]
    return Record.decode(value).state.recent


@pytest.mark.parametrize("length", LENGTHS)
def test_the_rebuilt_state_is_the_one_of_the_whole_stream(old, new, length):
    store, x = MemoryStore(), old.sequence(length + 3, seed=length)
    streamed(old, store, x[:length])
    reply = answer(make_service(new, store=store), step("a", length, x[length:], **{"return": ["prediction", "h_n", "c_n"]}))
    assert (reply["session"]["rewarmed"], reply["session"]["rebuilt"]) == (True, EXACT)
    offline = eager.run(new.model, x)
    for name in ("prediction", "h_n", "c_n"):
        assert_close(reply[name], getattr(offline, name), f"{name} of the rebuilt stream")
    reply = answer(make_service(new, store=store), step("a", length + 3, x[:5]))
    assert "rewarmed" not in reply["session"]
    assert_close(reply["prediction"], eager.run(new.model, [*x, *x[:5]]).prediction, "the stream after it")


@pytest.mark.parametrize("batch", [1, 24])
def test_streams_that_are_stepped_together_are_rebuilt_as_well(old, new, batch):
    """One by one, and as the columns of usual steps; each stream has another length, and all go on as columns afterwards."""
    store, longest = MemoryStore(), 150
    streams = {f"s{i}": old.sequence(longest - 5 * i + 1, seed=i) for i in range(batch)}
    service, after = make_service(old, store=store), make_service(new, store=store)
    for at in range(longest):
        requests = [step(id, at, x[at : at + 1]) for id, x in streams.items() if at < len(x) - 1]
        assert {status for status, _ in ask(service, *requests)} == {200}
    replies = ask(after, *(step(id, len(x) - 1, x[-1:]) for id, x in streams.items()))
    for (_, reply), x in zip(replies, streams.values(), strict=True):
        assert reply["session"]["rebuilt"] == EXACT
        assert_close(reply["prediction"], eager.run(new.model, x).prediction, "the rebuilt stream")
    again = ask(after, *(step(id, len(x), x[:1]) for id, x in streams.items()))
    for (_, reply), x in zip(again, streams.values(), strict=True):
        assert_close(reply["prediction"], eager.run(new.model, [*x, x[0]]).prediction, "the stream after it")


def test_a_quarter_more_than_the_models_memory_is_kept_if_it_is_no_larger_than_the_state(old):
    store, steps = MemoryStore(), rewarming(old).steps
    assert steps == min(-(-old.signature.memory_steps * 5 // 4), 96)
    streamed(old, store, old.sequence(steps + 20))
    assert (kept(store, "a").room, kept(store, "a").known) == (steps, steps)
    assert np.array_equal(kept(store, "a").inputs, old.sequence(steps + 20)[20:])


def test_a_session_from_before_the_setting_is_told_apart_until_it_has_as_many_inputs(old, new):
    store, steps = MemoryStore(), rewarming(old).steps
    needed = new.signature.memory_steps
    x = old.sequence(steps + needed + 40)
    streamed(old, store, x[:30], rewarm_steps=0)
    described = answer(make_service(old, store=store), act("a", "describe"))["session"]
    assert described["rewarm"] == f"0 of {steps} inputs"
    streamed(old, store, x[30:35], start=30)
    assert answer(make_service(old, store=store), act("a", "describe"))["session"]["rewarm"] == f"5 of {steps} inputs"
    status, code, error = refusal(make_service(new, store=store), step("a", 35, x[35:36]))
    assert (status, code, error["details"]["version"]) == (409, "model_changed", "1.0")
    streamed(old, store, x[35 : 30 + needed], start=35)
    reply = answer(make_service(new, store=store), step("a", 30 + needed, x[30 + needed : 31 + needed]))
    assert reply["session"]["rebuilt"] == EXACT
    assert_close(reply["prediction"], eager.run(new.model, x[: 31 + needed]).prediction, "the rebuilt stream")


def test_a_version_that_remembers_longer_than_inputs_were_kept_takes_the_stream_only_when_it_is_told_to(old, new):
    store, x = MemoryStore(), old.sequence(121)
    streamed(old, store, x[:120])
    longer = replace(new, signature=replace(new.signature, memory=new.signature.memory | {"steps": 50}))
    assert refusal(make_service(longer, store=store), step("a", 120, x[120:]))[:2] == (409, "model_changed")
    reply = answer(make_service(longer, store=store, rewarm_steps=30), step("a", 120, x[120:]))
    assert reply["session"]["rebuilt"].startswith("within ")


@pytest.mark.parametrize("steps", [2, 8, 20])
def test_fewer_inputs_than_the_memory_are_told_how_close_they_lead(old, new, steps):
    store, x = MemoryStore(), old.sequence(200)
    streamed(old, store, x[:199], rewarm_steps=steps)
    reply = answer(make_service(new, store=store, rewarm_steps=steps), step("a", 199, x[199:]))
    word, value = reply["session"]["rebuilt"].split()
    assert word == "within"
    assert difference(reply["prediction"], eager.run(new.model, x).prediction) <= float(value)


def test_of_a_model_whose_memory_was_not_measured_nobody_knows_how_close_it_is(old, new):
    store, x = MemoryStore(), old.sequence(41)
    unmeasured = replace(new, signature=replace(new.signature, memory={}))
    streamed(old, store, x[:40], rewarm_steps=8)
    assert answer(make_service(unmeasured, store=store, rewarm_steps=8), step("a", 40, x[40:]))["session"]["rebuilt"] == "unknown"


def test_a_fork_is_rebuilt_as_its_source_is(old, new):
    store, x = MemoryStore(), old.sequence(120)
    streamed(old, store, x[:110])
    answer(make_service(old, store=store), act("a", "fork", to="b"))
    streamed(old, store, x[110:119], id="b", start=110)
    reply = answer(make_service(new, store=store), step("b", 119, x[119:]))
    assert reply["session"]["rebuilt"] == EXACT
    assert_close(reply["prediction"], eager.run(new.model, x).prediction, "the rebuilt fork")


@pytest.mark.parametrize("to", [113, 104, 90])
def test_a_session_that_was_rewound_is_rebuilt_from_the_inputs_before_that_position(old, new, to):
    store, x = MemoryStore(), old.sequence(120)
    for at in range(0, 113, 1):
        answer(make_service(old, store=store, keep_versions=40), step("a", at, x[at : at + 1]))
    answer(make_service(old, store=store, keep_versions=40), {"session": {"id": "a", "action": "rewind", "step": to}})
    other = old.sequence(6, seed=77)
    streamed(old, store, other[:5], start=to, keep_versions=40)
    reply = answer(make_service(new, store=store, keep_versions=40), step("a", to + 5, other[5:]))
    assert reply["session"]["rebuilt"] == EXACT
    assert_close(reply["prediction"], eager.run(new.model, [*x[:to], *other]).prediction, "the rebuilt stream")


def test_a_what_if_leaves_no_trace_and_is_answered_by_the_rebuilt_state(old, new):
    store, x = MemoryStore(), old.sequence(101)
    streamed(old, store, x[:100])
    answer(make_service(old, store=store), step("a", 100, old.sequence(4, seed=5), commit=False))
    before = contents(store)
    for _ in range(2):
        reply = answer(make_service(new, store=store), step("a", 100, x[100:], commit=False))
        assert (reply["session"]["step"], reply["session"]["rebuilt"]) == (100, EXACT)
        assert_close(reply["prediction"], eager.run(new.model, x).prediction, "the what-if")
    assert contents(store) == before


@pytest.mark.parametrize("way", ["import", "state"])
def test_a_session_that_began_from_a_state_is_not_rebuilt_from_what_came_after_it(old, new, way):
    """Its first inputs are not the first ones of a stream, though it counts its steps from 0 where a first step brings the state."""
    store, x = MemoryStore(), old.sequence(40)
    service = make_service(old, store=store)
    state = answer(service, {"inputs": x.tolist(), "return": ["state"]})["state"]
    if way == "import":
        start = answer(service, act("b", "import", state=state))["session"]["step"]
        answer(service, step("b", start, x[:3]))
    else:
        start = answer(service, step("b", 0, x[:3], state=state))["session"]["step"] - 3
    assert refusal(make_service(new, store=store), step("b", start + 3, x[:1]))[:2] == (409, "model_changed")


START = datetime(2018, 9, 29, 20)
DERIVED = {"hour": {"of": "hour"}, "rain": {"of": "weekday", "form": "sin"}}


def timed(model):
    return replace(model, signature=replace(model.signature, frequency="1h", calendar={"derived": DERIVED}))


def rows(flow):
    """The inputs that an offline run feeds, from the first hour on."""
    moments = [START + timedelta(hours=n) for n in range(len(flow))]
    values = [[value, moment.hour, np.sin(2 * np.pi * moment.weekday() / 7)] for value, moment in zip(flow, moments, strict=True)]
    return np.array(values, np.float32)


def observed(service, flow, start, stop, cut=11):
    for at in range(start, stop, cut):
        upto = min(at + cut, stop)
        seen = [{"time": (START + timedelta(hours=n)).isoformat(), "flow": float(flow[n])} for n in range(at, upto)]
        reply = answer(service, {"observations": seen, "session": {"id": "a", "step": at}})
    return reply


@pytest.mark.parametrize("length", LENGTHS)
def test_of_a_stream_with_times_only_what_does_not_follow_from_them_is_kept(exported, length):
    old, new = timed(exported("road")), timed(exported("road-2"))
    store, flow = MemoryStore(), np.random.default_rng(length).normal(3, 0.5, length + 1).astype(np.float32)
    observed(make_service(old, store=store), flow, 0, length)
    assert kept(store, "a").rows.shape == (rewarming(old).steps, 1)
    reply = observed(make_service(new, store=store), flow, length, length + 1)
    assert reply["session"]["rebuilt"] == EXACT
    assert_close(reply["prediction"], eager.run(new.model, rows(flow)).prediction, "the rebuilt stream")


def test_a_stream_with_times_is_moved_without_a_step(exported):
    """Its time, its inputs and what it expects next are those of the stream under the new version."""
    old, new = timed(exported("road")), timed(exported("road-2"))
    store, flow = MemoryStore(), np.random.default_rng(3).normal(3, 0.5, 130).astype(np.float32)
    observed(make_service(old, store=store), flow, 0, 120)
    context = make_service(new, store=store).frontend.service.context
    [(key, entry)] = store.scan(b"")
    record = Record.decode(entry.value)
    [after] = moved(context, [record], record.created_at)
    assert after is not None
    assert store.commit_many([Change(key, entry.version, Entry(entry.version + 1, entry.purge_at, after.encode()))]) == [True]
    reply = observed(make_service(new, store=store), flow, 120, 121)
    assert "rewarmed" not in reply["session"]
    assert_close(reply["prediction"], eager.run(new.model, rows(flow[:121])).prediction, "the moved stream")
    gap = answer(make_service(new, store=store), act("a", "describe"))["session"]
    assert (gap["time"], gap["rewarm"]) == (
        (START + timedelta(hours=120)).isoformat(),
        f"{rewarming(new).steps} of {rewarming(new).steps} inputs",
    )


def test_inputs_without_times_are_not_kept_where_times_are_needed(exported):
    """What a client derived by itself may be something else, so the stream has to be observed anew."""
    old, store = timed(exported("road")), MemoryStore()
    flow = np.random.default_rng(1).normal(3, 0.5, 60).astype(np.float32)
    service = make_service(old, store=store)
    observed(service, flow, 0, 40)
    answer(service, step("a", 40, rows(flow)[40:41]))
    assert kept(store, "a") is None
    described = answer(service, act("a", "describe"))["session"]["rewarm"]
    assert described == f"0 of {rewarming(old).steps} inputs; only observations, which have times, are kept"
    observed(service, flow, 41, 44)
    assert (kept(store, "a").known, kept(store, "a").begins) == (3, False)


def test_a_version_with_other_features_does_not_take_the_inputs_for_its_own(exported, new):
    """Nor one whose steps are further apart."""
    store, x = MemoryStore(), new.sequence(51)
    streamed(exported("meter"), store, x[:50])
    for changed in ({"features": ("power",), "feedback": {"load": "power"}}, {"frequency": "15min"}):
        other = replace(new, signature=replace(new.signature, **changed))
        assert refusal(make_service(other, store=store), step("a", 50, x[50:]))[:2] == (409, "model_changed")


def rewarming(model, **settings):
    return Rewarming.of(model.signature, Timeline.of(model.signature), Settings(**settings))


def test_where_nothing_is_kept_it_is_said_why(exported, old):
    longer = replace(old, signature=replace(old.signature, memory={"steps": None, "limit": 512, "agreement": []}))
    before = replace(old, signature=replace(old.signature, memory={}))
    road = exported("road")
    size = 12 * road.signature.memory_steps
    for model, settings, why in (
        (longer, {}, "its memory is longer than 512 steps"),
        (before, {}, "its memory was not measured"),
        (road, {}, f"{road.signature.memory_steps} inputs take {size} bytes, more than its state (384)"),
        (exported("bidirectional"), {}, "the model keeps no state"),
        (old, {"rewarm_steps": 0}, "rewarm_steps is 0"),
    ):
        assert rewarming(model, **settings).steps == 0
        assert rewarming(model, **settings).described(None) == f"off: {why}"
    store = MemoryStore()
    streamed(longer, store, old.sequence(3))
    assert (
        answer(make_service(longer, store=store), act("a", "describe"))["session"]["rewarm"] == "off: its memory is longer than 512 steps"
    )
    assert kept(store, "a") is None


def test_a_number_of_steps_is_kept_whatever_it_costs(exported):
    assert rewarming(exported("road"), rewarm_steps=1_000).kept == (0, 1, 2)
    assert rewarming(timed(exported("road")), rewarm_steps=9).kept == (0, 1, 2)
    assert rewarming(timed(exported("road"))).kept == (0,)
