"""Features of which the signature says more than that they are numbers: ids, integers, signs."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from handlers.engine.request import Request
from handlers.errors import InvalidInput
from handlers.protocols.rules import RequestRules
from handlers.settings import Settings
from tests.support.signatures import TRAFFIC

SIGNATURE = replace(
    TRAFFIC,
    features=(*TRAFFIC.features, "station"),
    ids={"hour": 24},
    ranges={"station": (1, 8)},
    integers=("hour", "rain", "station"),
    nonnegative=("flow",),
)
RULES = RequestRules(SIGNATURE, Settings())
GOOD = [3.5, 23.0, -7.0, 1.0]  # flow, hour, rain, station


def request(*rows, future=None):
    rows = [[*row, *GOOD[len(row) :]] for row in rows]
    return Request(np.array(rows, np.float32), horizon=0 if future is None else len(future), future=future)


def test_what_was_measured_passes():
    RULES.check(request(GOOD, [0.0, 0.0, 2.0**24, 8.0], [np.nan, 1.0, 0.0, 1.0]))


WRONG = {
    "an id beyond its table": ([1, 24, 0], r"inputs\[1\]\[1\]: expected an id from 0 to 23 for hour, got 24"),
    "an id below 0": ([1, -1, 0], "got -1"),
    "an id with a fraction": ([1, 7.7, 0], "got 7.6999"),
    "an integer with a fraction": ([1, 0, 0.5], r"inputs\[1\]\[2\]: expected an integer within ±16777216 for rain, got 0.5"),
    "an integer that the model does not take": ([1, 0, 0, 9], r"inputs\[1\]\[3\]: expected an integer from 1 to 8 for station, got 9"),
    "an integer beyond float32": ([1, 0, 2**24 + 2], "got 16777218"),
    "a sign that was not measured": ([-0.1, 0, 0], r"inputs\[1\]\[0\]: expected no negative number, as none was measured for flow"),
}


@pytest.mark.parametrize(("row", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_was_not_measured_is_refused_with_place_and_value(row, said):
    with pytest.raises(InvalidInput, match=said):
        RULES.check(request(GOOD, row))


def test_inputs_known_in_advance_are_checked_in_their_own_columns():
    with pytest.raises(InvalidInput, match=r"future\[0\]\[0\]: expected an id from 0 to 23 for hour, got 30"):
        RULES.check(request(GOOD, future=np.array([[30, 0, 1]], np.float32)))


def test_beside_observations_they_stand_in_other_columns():
    calendar = {"derived": {"hour": {"of": "hour"}}}
    rules = RequestRules(replace(SIGNATURE, frequency="1h", calendar=calendar), Settings())
    observed = msgspec.structs.replace(request(GOOD, future=np.array([[2, 1], [0.5, 1]], np.float32)), times=np.zeros((1, 2), np.int64))
    with pytest.raises(InvalidInput, match=r"future\[1\]\[0\]: expected an integer within ±16777216 for rain, got 0.5"):
        rules.check(observed)


def test_a_sign_that_was_not_measured_is_refused_on_either_side():
    rules = RequestRules(replace(TRAFFIC, nonpositive=("rain",)), Settings())
    with pytest.raises(InvalidInput, match="expected no positive number, as none was measured for rain, got 1"):
        rules.check(request([1, 1, 1]))
