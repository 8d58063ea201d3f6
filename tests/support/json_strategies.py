"""Hypothesis strategies for what a client may send: any JSON, and JSON that nearly is a request."""

from typing import Any

import orjson
from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, -1, 3.5, 1e39, -1e39, 3e38, 2**53, 2**53 + 1]),
)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["prediction", "h_n", "state", "step", "fork", "close", "a", "b"]))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)

SMALL = st.floats(-100, 100, width=32)
IDS = st.sampled_from(["a", "b", "c"])
ACTIONS = st.sampled_from(["step", "describe", "close", "fork", "export", "import", "rewind", "reset"])


def matrices(columns: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(SMALL, min_size=columns, max_size=columns), min_size=1, max_size=4)


SESSIONS = st.one_of(
    IDS,
    st.fixed_dictionaries({}, optional={"id": IDS, "step": st.integers(0, 6)}),
    st.fixed_dictionaries({"id": IDS, "action": ACTIONS}, optional={"to": IDS, "step": st.integers(0, 3), "from": st.integers(0, 6)}),
    st.fixed_dictionaries({"id": IDS, "action": st.just("rewind"), "step": st.integers(0, 6)}),
)


def requests(columns: int = 3, states: st.SearchStrategy[Any] = ANYTHING) -> st.SearchStrategy[dict[str, Any]]:
    """Request objects whose every field is plausible, or anything at all."""
    plausible = {
        "inputs": matrices(columns),
        "return": st.lists(st.sampled_from(["prediction", "output", "h_n", "c_n", "state"]), max_size=5),
        "session": SESSIONS,
        "horizon": st.integers(0, 4),
        "future": matrices(columns - 1) if columns > 1 else ANYTHING,
        "commit": st.booleans(),
        "state": states,
    }
    fields = {name: st.one_of(field, field, field, ANYTHING) for name, field in plausible.items()}
    return st.fixed_dictionaries({}, optional=fields | {"colour": ANYTHING})


def bodies(request: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """HTTP bodies: a request, instances of them, any JSON, any bytes."""
    instances = st.lists(st.one_of(request, ANYTHING), max_size=4).map(lambda items: {"instances": items})
    return st.one_of(st.one_of(request, request, instances, ANYTHING).map(orjson.dumps), st.binary(max_size=60))
