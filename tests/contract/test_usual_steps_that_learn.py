"""Usual steps of streams that have times and scores: served together, answers and records are to the bit those of steps served alone."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from msgspec.structs import replace as replace_fields

from handlers.engine import usual_steps
from handlers.inference.backends.base import Run
from handlers.metrics import Telemetry
from handlers.sessions.record import Record
from handlers.stores.base import Change
from handlers.stores.memory import MemoryStore
from tests.conftest import Clock, ask, export_spec, make_service
from tests.support.calibrated import calibrated, write_series
from tests.support.distribution_models import PAIR, spec
from tests.support.open_inference_client import infer, texts
from tests.support.usual_steps import Alone

SESSIONS = 24
ZONE = ZoneInfo("America/Chicago")
BEFORE_AUTUMN = datetime(2018, 11, 3, 20, tzinfo=UTC)  # clocks are set back at 07:00 UTC
BEFORE_SPRING = datetime(2018, 3, 11, 2, tzinfo=UTC)  # and forward at 08:00 UTC
HOLIDAY = {"of": "holiday", "country": "US", "shift": 1}
DERIVED = {"hour": {"of": "hour", "form": "sin"}, "rain": HOLIDAY}
HORIZON = 6
KEPT = "calendar, kept without what is derived"
SETTINGS = [{"rewarm_steps": 0}, {"rewarm_steps": 5}, {}]


def timed(model, frequency="1h", **calendar):
    return replace(model, signature=replace(model.signature, frequency=frequency, calendar={"derived": {}} | calendar))


@pytest.fixture(scope="module")
def models(exported, tmp_path_factory):
    """`models(name)`: a model with a calendar, with intervals, of a distribution, or with some of these."""
    folder = tmp_path_factory.mktemp("models")
    one, pair = exported("one"), export_spec(folder / "pair", "pair", PAIR)
    noise = one.sequence(400, seed=3)
    meter = calibrated(one, write_series(folder / "load.csv", noise), HORIZON)
    few = replace(exported("road"), signature=replace(exported("road").signature, memory={"steps": 60, "limit": 512}))
    found = {
        "calendar": timed(exported("two"), timezone="America/Chicago", derived=DERIVED),
        "calendar, part derived": timed(exported("two"), timezone="America/Chicago", derived={"hour": DERIVED["hour"]}),
        "calendar without a zone": timed(exported("two"), derived=DERIVED, gaps="refuse"),
        KEPT: timed(few, timezone="America/Chicago", derived=DERIVED),
        "calendar, per step": timed(exported("step"), timezone="America/Chicago", derived=DERIVED),
        "calendar of days": timed(exported("one"), "1D", timezone="America/Chicago"),
        "intervals": meter,
        "intervals and calendar": timed(meter, timezone="America/Chicago"),
        "distribution": export_spec(folder / "normal", "normal", spec("normal")),
        "distributions and calendar": timed(pair, timezone="America/Chicago", derived={"hour": {"of": "hour"}}),
    }
    for model in found.values():
        assert model.signature.feedback
    return found.__getitem__


NAMES = [
    "calendar",
    "calendar, part derived",
    "calendar without a zone",
    KEPT,
    "calendar, per step",
    "calendar of days",
    "intervals",
    "intervals and calendar",
    "distribution",
    "distributions and calendar",
]


class OneByOne:
    """Runs a model for each step of each row by itself, so that its results do not depend on what else is in a batch."""

    def __init__(self, backend):
        self.backend, self.device = backend, backend.device

    def run(self, x, states, want_output):
        runs = [self._row(x[i : i + 1], [state[:, i : i + 1] for state in states], want_output) for i in range(len(x))]
        output = np.concatenate([run.output for run in runs]) if want_output else None
        joined = tuple(np.concatenate(parts, axis=1) for parts in zip(*[run.states for run in runs], strict=True))
        return Run(np.concatenate([run.y for run in runs]), output, joined)

    def _row(self, x, states, want_output):
        runs = []
        for t in range(x.shape[1]):
            runs.append(self.backend.run(x[:, t : t + 1], states, want_output))
            states = runs[-1].states
        y = runs[-1].y if runs[-1].y.ndim == 2 else np.concatenate([run.y for run in runs], axis=1)
        return Run(y, np.concatenate([run.output for run in runs], axis=1) if want_output else None, states)


def service(model, **settings):
    made = make_service(model, **settings)
    context = made.frontend.service.context
    object.__setattr__(context, "backend", OneByOne(context.backend))
    return made


class Streams:
    """What the sessions have seen, and requests that mostly follow it."""

    def __init__(self, model, draw, start):
        self.model, self.draw, self.at = model, draw, {}
        self.hours = {f"s{i}": draw.choice([0, 0, 0, 1]) for i in range(SESSIONS)}
        self.start = start
        calendar = model.signature.calendar
        self.has_times, self.days = bool(calendar), model.signature.frequency == "1D"
        self.zone = calendar.get("timezone") if calendar else None
        derived = calendar.get("derived", {}) if calendar else {}
        self.names = [name for name in model.signature.features if name not in derived]
        self.fed = [model.signature.features[column] for _, column in model.signature.feedback_columns]

    def time(self, hours):
        """A time as clients write it: with an offset, or as clocks show it."""
        if self.days:
            return (datetime(2018, 11, 2) + timedelta(days=hours)).isoformat()
        moment = self.start + timedelta(hours=hours)
        if not self.zone:
            return moment.replace(tzinfo=None).isoformat()
        local = moment.astimezone(ZONE)
        return (local if self.draw.random() < 0.5 else local.replace(tzinfo=None)).isoformat()

    def inputs(self, steps):
        return self.model.sequence(steps, seed=self.draw.randrange(10_000)).tolist()

    def observation(self, hours):
        row = dict(zip(self.model.signature.features, self.inputs(1)[0], strict=True))
        return {"time": self.time(hours)} | {name: row[name] for name in self.names}

    def request(self, share_of_inputs):
        """A request: mostly the next step of a session, and with that probability without a time."""
        draw, id = self.draw, f"s{self.draw.randrange(SESSIONS)}"
        hours, session = self.hours[id], {"id": id, "step": self.at.get(id, 0)}
        if not self.has_times or draw.random() < share_of_inputs:
            usual = {"inputs": self.inputs(draw.choice([1, 1, 1, 2])), "session": session}
        else:
            usual = {"observations": [self.observation(hours)], "session": session}
        if draw.random() < 0.8:
            return usual
        odd = [
            usual | {"commit": False},
            usual | {"return": ["prediction", "h_n"]},
            usual | {"horizon": 1} | ({} if self.names == self.fed else {"future": [[0.5] * (len(self.names) - len(self.fed))]}),
            usual | {"session": {"id": id, "step": draw.randint(0, 9)}},
            {"session": {"id": id, "action": draw.choice(["describe", "close", "export"])}},
            {"session": {"id": id, "action": "fork", "to": f"s{draw.randrange(SESSIONS)}"}},
        ]
        if self.model.signature.intervals or self.model.signature.distribution:
            odd.append(odd[2] | {"levels": [80]})
        if self.has_times:
            first = self.observation(hours)
            odd += [
                {"observations": [self.observation(hours + draw.choice([-1, 1, 3]))], "session": session},
                {"observations": [first, self.observation(hours + 1)], "session": session},
                {
                    "observations": [first | {"time": draw.choice(["now", "2018-03-11T02:30:00", "2018-11-04T01:00:00"])}],
                    "session": session,
                },
                {"observations": [first | {self.fed[0]: None}], "session": session},
                {"observations": [first | {self.fed[0]: -0.0}], "session": session},
                {"observations": [first | {self.fed[0]: 1e39}], "session": session},
                {"observations": [first | {"another": 1}], "session": session},
            ]
        else:
            odd.append({"inputs": [[None] * len(self.fed) + [0.5] * (len(self.names) - len(self.fed))], "session": session})
        return draw.choice(odd)

    def follow(self, replies):
        for status, reply in replies:
            if status == 200 and reply.get("session"):
                at = self.at.get(reply["session"]["id"], 0)
                self.at[reply["session"]["id"]] = reply["session"]["step"]
                self.hours[reply["session"]["id"]] += max(reply["session"]["step"] - at, 0)


def contents(store):
    """Keys, times to purge and bytes of all entries."""
    return {key: (entry.purge_at, entry.value) for key, entry in store.scan(b"")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("seed", "start"), [(0, BEFORE_AUTUMN), (1, BEFORE_SPRING), (2, BEFORE_AUTUMN)])
def test_answers_records_and_metrics_are_to_the_bit_those_of_steps_served_alone(models, name, seed, start, together, monkeypatch):
    monkeypatch.setattr(usual_steps, "FEW", 2)
    model, draw, clock = models(name), random.Random(seed), Clock()
    stores, telemetries = (MemoryStore(), MemoryStore()), (Telemetry(), Telemetry())
    both, alone = (
        service(model, store=store, clock=clock, telemetry=telemetry, **({} if name == KEPT else SETTINGS[seed]))
        for store, telemetry in zip(stores, telemetries, strict=True)
    )
    assert name != KEPT or both.frontend.service.context.rewarming.needs_times
    streams = Streams(model, draw, start)
    for _ in range(40):
        share_of_inputs = draw.choice([0, 0.1, 0.1, 0.9])
        requests = [streams.request(share_of_inputs) for _ in range(draw.randint(1, 40))]
        if draw.random() < 0.3:
            requests = [{"instances": requests}]
        replies, expected = ask(both, *requests), Alone(alone)(*requests)
        assert replies == expected
        assert contents(stores[0]) == contents(stores[1])
        rows = [(200, row) for row in replies[0][1]["predictions"]] if "instances" in requests[0] else replies
        streams.follow(rows)
        clock.now += draw.choice([0, 1, 60])
    assert sum(together) > 60, "steps were served together"
    counted, like = (
        {key: value for key, value in vars(telemetry)["_counts"].items() if key[0] != "retries_total"} for telemetry in telemetries
    )
    assert counted == like


@pytest.mark.parametrize("name", ["intervals and calendar", "distributions and calendar"])
@pytest.mark.parametrize("place", [0, 11, 13])  # the format, and the numbers of predicted values and of bytes of scores
def test_a_memory_in_another_form_of_as_many_bytes_is_left_to_be_served_alone(models, name, place, together, monkeypatch):
    model, stores = models(name), (MemoryStore(), MemoryStore())
    both, alone = (service(model, store=store) for store in stores)
    streams = Streams(model, random.Random(0), BEFORE_AUTUMN)

    def steps(at):
        return [{"observations": [streams.observation(at)], "session": {"id": f"s{i}", "step": at}} for i in range(SESSIONS)]

    for requests in (steps(0), steps(1)):
        assert ask(both, *requests) == Alone(alone)(*requests)
    for store in stores:
        for key, entry in list(store.scan(b""))[::2]:
            record = Record.decode(entry.value)
            memory = bytearray(record.state.forecast)
            memory[place] += 1
            record.state.forecast = bytes(memory)
            store.commit_many([Change(key, entry.version, replace_fields(entry, value=record.encode()))])
    together.clear()
    requests = steps(2)
    assert ask(both, *requests) == Alone(alone)(*requests)
    assert together == [SESSIONS // 2]
    assert contents(stores[0]) == contents(stores[1])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["calendar", "calendar, part derived"])
def test_tensors_of_observations_are_served_together(models, together, binary, name, monkeypatch):
    model, names = models(name), [f"s{i}" for i in range(SESSIONS)]
    both, alone = service(model), service(model)
    width = len(Streams(model, random.Random(0), BEFORE_AUTUMN).names)

    def send(to, at):
        x = np.random.default_rng(at).normal(3, 1, (SESSIONS, 1, width)).astype(np.float32)
        time = np.array([(BEFORE_AUTUMN + timedelta(hours=at)).isoformat().encode()] * SESSIONS, object)[:, None]
        return infer(to, binary, inputs={"x": x, "time": time, "session": texts(*names), "step": np.full(SESSIONS, at)})

    found = [send(both, at) for at in range(3)]
    assert together == [0, SESSIONS, SESSIONS]
    assert len(found[-1].outputs["times"]) == SESSIONS
    monkeypatch.setattr(usual_steps, "FEW", float("inf"))
    for at in range(3):
        like = send(alone, at)
        assert found[at].document == like.document
        for output, values in found[at].outputs.items():
            assert values.tolist() == like.outputs[output].tolist(), output
