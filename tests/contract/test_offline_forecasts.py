"""Random lives of streams, with holes, retries, what-ifs, forks and rewinds, against the same computed offline from the page."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import answer, ask, assert_close, make_service
from tests.support.calibrated import calibrated, write_series
from tests.support.offline_forecasts import OfflineStream, Tables
from tests.support.requests import act

HORIZON, KEPT_VERSIONS = 9, 6
TOLERANCE = 1e-4  # of the larger of 1 and the reference
NAMES = {"one": ("load",), "step": ("flow", "hour", "rain")}


@pytest.fixture(scope="module", params=NAMES)
def model(request, exported, tmp_path_factory):
    """A calibrated model, of one y a sequence and of one a step."""
    plain = exported(request.param)
    path = write_series(tmp_path_factory.mktemp("series") / "load.csv", plain.sequence(400, seed=3), NAMES[request.param])
    return calibrated(plain, path, HORIZON)


OPERATIONS = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 4), st.booleans(), st.booleans()),
    st.tuples(st.sampled_from(["step", "what-if"]), st.integers(1, 3), st.just(True), st.booleans()),
    st.tuples(st.sampled_from(["retry", "fork", "rewind"]), st.integers(1, KEPT_VERSIONS - 1), st.just(False), st.just(False)),
)


class Life:
    """One session and its offline double."""

    def __init__(self, model, seed):
        self.model, self.random, self.id = model, np.random.default_rng(seed), "a"
        self.service = make_service(model, keep_versions=KEPT_VERSIONS)
        self.offline = OfflineStream(model.model, Tables(model.signature.intervals), model.signature.output_mode == "step")
        self.kept, self.last, self.forks = [], None, 0  # copies of the double before each request, newest last
        self.source = model.sequence(600, seed=seed + 10) * 2  # wilder than what was calibrated on
        self.move(self.rows(2, False), False)

    def rows(self, count, holes):
        at = len(self.offline.inputs)
        rows = self.source[at : at + count].tolist()
        may_lack = [holes and (i > 0 or self.offline.expected is not None) for i in range(count)]  # a rewind may lead back to the start
        return [[None if may and self.random.random() < 0.4 else row[0], *row[1:]] for may, row in zip(may_lack, rows, strict=True)]

    def move(self, rows, asked, commit=True):
        before, at = self.offline.copy(), len(self.offline.inputs)
        future = self.source[at + len(rows) : at + len(rows) + HORIZON, 1:].tolist() if len(rows[0]) > 1 else []
        request = {"inputs": rows, "session": {"id": self.id, "step": at}, "commit": commit}
        if asked:
            request |= {"horizon": HORIZON, "levels": [50, 75, 80, 95, 99]} | ({"future": future} if future else {})
        reply = answer(self.service, request)
        answered = np.ravel(reply.get("forecast", ()))
        expected = self.offline.step(rows, HORIZON if asked else 0, future, tuple(request.get("levels", ())), answered)
        self.check(reply, expected)
        if commit:
            self.kept, self.last = [*self.kept, before][-KEPT_VERSIONS:], request
        else:
            self.offline = before

    def check(self, reply, expected):
        assert reply.get("imputed", 0) == expected["imputed"]
        assert_close(np.ravel(reply["prediction"])[-1], expected["prediction"], "prediction", TOLERANCE)
        if "forecast" in expected:
            assert_close(np.ravel(reply["forecast"]), expected["forecast"], "forecast", TOLERANCE)
        for level, halves in expected.get("intervals", {}).items():
            bounds = reply["intervals"][str(level)]
            assert_close((np.ravel(bounds["upper"]) - np.ravel(bounds["lower"])) / 2, halves, f"half of {level} %", TOLERANCE)

    def retry(self):
        [(status, reply)] = ask(self.service, self.last)
        assert status == 200
        assert reply["session"]["replayed"]

    def fork(self):
        self.forks += 1
        answer(self.service, act(self.id, "fork", to=f"f{self.forks}"))
        self.id, self.kept, self.last = f"f{self.forks}", [], None

    def rewind(self, back):
        if back <= len(self.kept):
            self.offline = self.kept[-back]
            self.kept, self.last = self.kept[:-back], None
            answer(self.service, {"session": {"id": self.id, "action": "rewind", "step": len(self.offline.inputs)}})

    def scores(self):
        return answer(self.service, act(self.id, "describe"))["session"]["scores"]


@settings(max_examples=12)
@given(st.integers(0, 9), st.lists(OPERATIONS, min_size=15, max_size=40))
def test_whatever_happens_to_a_stream_it_is_the_one_computed_offline(model, seed, operations):
    life = Life(model, seed)
    for kind, amount, asked, holes in operations:
        if kind in ("step", "what-if"):
            life.move(life.rows(amount, holes), asked, commit=kind == "step")
        elif kind == "fork":
            life.fork()
        elif kind == "rewind":
            life.rewind(amount)
        elif life.last is not None:
            life.retry()
        found, expected = life.scores(), life.offline.scores()
        assert found.keys() == expected.keys()
        for name in found:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def test_a_stream_that_drifts_does_so_offline(model):
    life = Life(model, 0)
    life.source[100:200, 0] += 60
    for _ in range(150):
        life.move(life.rows(1, False), len(life.offline.inputs) % 3 == 0)
    assert life.offline.drifts > 0
    assert life.scores()["drifts"] == life.offline.drifts
