"""Random runs are explained, those of a simulator with clients at once and answers lost, and the service's own; altered ones are not."""

import math
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.stores.memory import MemoryStore
from loadtests.chaos import caller
from loadtests.history import Answer, History, Invocation, Operation
from loadtests.offline import OfflineModel
from loadtests.oracle import judge as oracle
from loadtests.oracle.report import Report, printed
from tests.conftest import Exported, ask, make_service
from tests.unit.test_oracle import KEEP, POOL, Fading, prediction

NAMES = ("a", "b", "c")
seeds = given(st.integers(0, 2**32))


@dataclass
class Simulated:
    """A session as plainly as can be: rows consumed, where it was before, what was applied last. None of the specification's code."""

    rows: list[int] = field(default_factory=list)
    kept: list[list[int]] = field(default_factory=list)
    generation: int = 0
    last: tuple[Invocation, int, int] | None = None  # the step or fork applied last, the position and the generation before it
    rewound: Invocation | None = None  # the request applied last, where that is a rewind
    closed: bool = False


class Simulator:
    """Serves one request at a time."""

    def __init__(self) -> None:
        self.sessions: dict[str, Simulated] = {}

    def serve(self, asked: Invocation) -> Answer:
        session = self.sessions.get(asked.session)
        if session is None and not (asked.action == "step" and asked.step == 0):
            return Answer(404, "session_not_found")
        answer: Answer = getattr(self, asked.action)(asked, session or Simulated())
        return answer

    def at(self, asked: Invocation, session: Simulated, **more: Any) -> Answer:
        place = {"step": len(session.rows), "generation": session.generation, "closed": session.closed}
        return Answer(200, session=asked.to or asked.session, **place, **more)

    def conflict(self, session: Simulated) -> Answer:
        return Answer(409, "step_conflict", expected=len(session.rows), generation=session.generation)

    def exists(self, session: Simulated) -> Answer:
        return replace(self.conflict(session), code="session_exists")

    def step(self, asked: Invocation, session: Simulated) -> Answer:
        assert asked.inputs is not None
        last, before, generation = session.last or (None, None, None)
        if last is not None and (before, last.inputs) == (asked.step, asked.inputs) and asked.generation in (None, generation):
            return self.at(asked, session, replayed=True, prediction=prediction(session.rows))
        if session.closed:
            return Answer(410, "session_closed")
        if asked.generation not in (None, session.generation):
            return self.conflict(session)
        if asked.step not in (None, len(session.rows)):
            return self.conflict(session) if asked.step else self.exists(session)
        rows = session.rows + list(range(*asked.inputs))
        if asked.commit:
            session.last, session.rewound = (asked, len(session.rows), session.generation), None
            session.rows, session.kept = rows, [session.rows, *session.kept][:KEEP]
            self.sessions[asked.session] = session
        return self.at(asked, session, prediction=prediction(rows))

    def describe(self, asked: Invocation, session: Simulated) -> Answer:
        return Answer(410, "session_closed") if session.closed else self.at(asked, session)

    def close(self, asked: Invocation, session: Simulated) -> Answer:
        session.closed = True
        return self.at(asked, session)

    def rewind(self, asked: Invocation, session: Simulated) -> Answer:
        if session.rewound == asked:
            return self.at(asked, session, replayed=True)
        if session.closed:
            return Answer(410, "session_closed")
        if asked.generation not in (None, session.generation):
            return self.conflict(session)
        found = next((rows for rows in [session.rows, *session.kept] if len(rows) == asked.step), None)
        if found is None:
            return Answer(422, "invalid_input")
        session.last = session.last if found is session.rows else None
        session.rows, session.kept = found, [rows for rows in session.kept if len(rows) < len(found)]
        session.generation, session.rewound = session.generation + 1, asked
        return self.at(asked, session)

    def fork(self, asked: Invocation, session: Simulated) -> Answer:
        if session.closed:
            return Answer(410, "session_closed")
        target = self.sessions.get(asked.to or "")
        if target is None:
            target = self.sessions[asked.to or ""] = Simulated(session.rows, last=(asked, len(session.rows), 0))
            return self.at(asked, target)
        if target.closed:
            return Answer(410, "session_closed")
        if target.last is not None and target.last[:2] == (asked, len(target.rows)):
            return self.at(asked, target, replayed=True)
        return self.exists(target)


def drawn(draw: Random) -> Invocation:
    """A request that often makes sense."""
    generation = draw.choices([None, 0, 1, 2], [6, 3, 2, 1])[0]
    action = draw.choices(["step", "describe", "rewind", "fork", "close"], [12, 3, 3, 2, 0.3])[0]
    name = draw.choice(NAMES)
    if action == "step":
        start = draw.randrange(0, 6)
        step = draw.choices([None, draw.randrange(8)], [1, 8])[0]
        step, generation = (step, generation if step else None)
        inputs = start, start + draw.randint(1, 3)
        return Invocation("me", name, step=step, inputs=inputs, commit=draw.random() < 0.9, generation=generation)
    to = draw.choice([other for other in NAMES if other != name])
    if action == "rewind":
        return Invocation("me", name, action, step=draw.randrange(6), generation=generation)
    return Invocation("me", name, action, to=to if action == "fork" else None)


def run(draw: Random, length: int, overlap: float, lost: float) -> list[Operation]:
    """Requests served at the ticks of a clock, each under way up to `overlap` ticks before and after; some are lost, or their answers."""
    simulator, operations = Simulator(), []
    for tick in range(length):
        request = drawn(draw)
        start, end = tick - draw.uniform(0, overlap), tick + draw.uniform(0, overlap)
        if draw.random() < lost:
            if draw.random() < 0.5:
                simulator.serve(request)
            operations.append(Operation(tick, request, start, end, Answer(detail="ReadTimeout")))
        else:
            operations.append(Operation(tick, request, start, end, simulator.serve(request)))
    return sorted(operations, key=lambda o: o.start)


def check(operations: list[Operation], rows: Any = POOL, model: Any = None, keep: int = KEEP) -> Report:
    return oracle.check(History({}, operations, []), model or Fading(), rows, keep)


@seeds
def test_a_right_run_with_clients_at_once_and_answers_lost_is_explained(seed: int) -> None:
    report = check(run(Random(seed), 60, overlap=4.0, lost=0.1))
    assert report.code == 0, printed(report)


@seeds
def test_in_a_run_without_overlap_each_altered_answer_is_found(seed: int) -> None:
    draw = Random(seed)
    operations = run(draw, 40, overlap=0.4, lost=0.0)
    place = draw.randrange(len(operations))
    changed = altered(operations[place].answer, draw)
    operations[place] = replace(operations[place], answer=changed)
    report = check(operations)
    assert report.code == 1, f"{operations[place]}\n{printed(report)}"


@seeds
def test_with_clients_at_once_and_answers_lost_a_wrong_digit_is_found(seed: int) -> None:
    draw = Random(seed)
    operations = run(draw, 60, overlap=4.0, lost=0.1)
    answered = [i for i, o in enumerate(operations) if o.answer.prediction is not None]
    if not answered:
        return
    place = draw.choice(answered)
    found = operations[place].answer
    operations[place] = replace(operations[place], answer=replace(found, prediction=[found.prediction[0] + 1e-4]))
    assert check(operations).code == 1


def altered(answer: Answer, draw: Random) -> Answer:
    """One field of it otherwise."""
    if answer.status != 200:
        refusals: list[dict[str, Any]] = [{"status": 200, "code": ""}, {"code": "session_expired"}]
        return replace(answer, **draw.choice(refusals + ([] if answer.expected is None else [{"expected": answer.expected + 1}])))
    choices: list[dict[str, Any]] = [
        {"step": (answer.step or 0) + 1},
        {"replayed": not answer.replayed},
        {"session": "z"},
        {"closed": not answer.closed},
        {"generation": (answer.generation or 0) + 1},
    ]
    if answer.prediction is not None:
        choices += [{"prediction": [answer.prediction[0] + 1e-4]}, {"prediction": None}, {"prediction": [math.nan]}]
    return replace(answer, **draw.choice(choices))


class Asked:
    """Requests of random batches, served by two workers over one store, as a history has them."""

    def __init__(self, model: Exported, seed: int, rows: Any) -> None:
        store = MemoryStore()
        self._workers = [make_service(model, store=store, keep_versions=KEEP) for _ in range(2)]
        self._draw, self._rows, self._states = Random(seed), rows, dict[str, str]()
        self.operations: list[Operation] = []
        self._generations = False  # until an answer tells one

    def batch(self, tick: int) -> None:
        requests = [self._request() for _ in range(self._draw.randint(1, 5))]
        answers = ask(self._draw.choice(self._workers), *map(self._object, requests))
        for request, (status, reply) in zip(requests, answers, strict=True):
            if "state" in reply:
                self._states[caller.digest(reply["state"])] = reply["state"]
            answer = caller.answer(status, reply)
            self._generations |= answer.generation is not None
            self.operations.append(Operation(len(self.operations), request, tick, tick + 0.5, answer))

    def _request(self) -> Invocation:
        chance = self._draw.random()
        if chance < 0.05 and self._states:
            return Invocation("me", self._draw.choice(NAMES), "import", state=self._draw.choice(list(self._states)))
        request = Invocation("me", self._draw.choice(NAMES), "export") if chance < 0.1 else drawn(self._draw)
        return request if self._generations else replace(request, generation=None)

    def _object(self, asked: Invocation) -> dict[str, Any]:
        """As `docs/sessions.md` writes it."""
        fields = {"id": asked.session, "step": asked.step, "generation": asked.generation, "to": asked.to} | (
            {"action": asked.action} if asked.action != "step" else {}
        )
        session = {name: value for name, value in fields.items() if value is not None}
        more = {"state": self._states[asked.state]} if asked.state else {}
        step = {"inputs": self._rows[slice(*asked.inputs)], "commit": asked.commit} if asked.inputs else {}
        return {"session": session} | more | step


@given(st.integers(0, 2**32))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_service_answers_is_explained(two: Exported, seed: int) -> None:
    """The specification was written from the documentation, the service is the service: they meet here, a batch at a time."""
    rows, model = two.sequence(40), OfflineModel(two.built.archive)
    asked = Asked(two, seed, rows)
    for tick in range(40):
        asked.batch(tick)
    report = check(asked.operations, rows, model)
    assert report.code == 0, printed(report)
