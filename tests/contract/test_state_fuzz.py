"""A client may send anything for a state: only what a service returned, for this model and under this key, is ever taken for one."""

import itertools
import tracemalloc
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import orjson
import pytest

from handlers import errors
from handlers.errors import CellstateError
from handlers.sessions import state
from handlers.sessions.state import HEADER, State
from handlers.settings import Settings
from handlers.signature import StateEntry
from handlers.stores.memory import MemoryStore
from tests.conftest import answer, ask, make_service, refusal
from tests.support.forgeries import Forger, encode
from tests.support.requests import act, contents
from tests.support.signatures import TRAFFIC

KEY = "the operator's key"
MUTATIONS, BATCH = 50_000, 500  # for each of: a key, no key
STATUSES = {error.code: error.status for error in (errors.InvalidInput, errors.TooLarge, errors.ModelChanged)}
ROW = [[1.0, 2.0, 3.0]]
FORMS = (
    lambda n, text: {"inputs": ROW, "state": text},
    lambda n, text: act(f"s{n}", "import", state=text),
    lambda n, text: {"inputs": ROW, "state": text, "session": {"id": f"s{n}", "step": 0}},
    lambda n, text: {"inputs": ROW, "state": text, "session": {"step": 0}},
    lambda n, text: {"inputs": ROW, "state": text, "session": {"id": f"s{n}", "step": 0}, "commit": False},
)
keys = pytest.mark.parametrize("key", ["", KEY], ids=["checksum", "signed"])


def returned(model, key, count=20):
    """What a service of that model and key returned for states."""
    requests = ({"inputs": model.sequence(1 + n, seed=n).tolist(), "return": ["state"]} for n in range(count))
    return [reply["state"] for _, reply in ask(make_service(model, state_key=key), *requests)]


@pytest.fixture
def key():
    """None, where a test names none."""
    return ""


@pytest.fixture
def forger(two, exported, key):
    others = ("retrained", "step", "one", "projected", "words")  # of the same size, and of others
    strings = [text for name in others for text in returned(exported(name), key, 4)]
    return Forger(two.signature, key.encode(), returned(two, key), strings)


def check_refused(kind, text, status, error):
    """A clean refusal of ours, that names the field and repeats nothing of what was sent."""
    assert STATUSES.get(error["code"]) == status, f"{kind}: {status} {error}: {text!r}"
    assert error["message"].startswith("state: "), f"{kind}: {error}"
    assert len(error["message"]) < 300, f"{kind}: {error}"


@keys
def test_no_mutation_of_a_state_is_accepted_and_none_is_a_5xx(two, key, forger):
    store = MemoryStore()
    service, strings, seen = make_service(two, store=store, state_key=key), forger.strings(), Counter()
    for start in range(0, MUTATIONS, BATCH):
        forged = list(itertools.islice(strings, BATCH))
        requests = [FORMS[n % len(FORMS)](n, text) for n, (_, text) in enumerate(forged, start)]
        (status, _), *replies = ask(service, {"inputs": ROW, "state": forger.one()}, *requests)
        assert status == 200, "what was returned is accepted"
        for (kind, text), (status, reply) in zip(forged, replies, strict=True):
            check_refused(kind, text, status, reply.get("error", {"code": "accepted"}))
        seen.update(kind for kind, _ in forged)
    assert seen.total() == MUTATIONS
    assert min(seen.values()) >= 500
    assert contents(store) == {}, "nothing was created"


@keys
def test_forged_instances_fail_alone(two, key, forger):
    service, strings = make_service(two, state_key=key), forger.strings()
    good = {"inputs": ROW, "state": forger.one()}
    expected = answer(service, good)
    for start in range(0, 2_500, 250):
        forged = list(itertools.islice(strings, 250))
        instances = [FORMS[n % len(FORMS)](n, text) for n, (_, text) in enumerate(forged, start)]
        first, *rest, last = answer(service, {"instances": [good, *instances, good]})["predictions"]
        assert first == last == expected
        for (kind, text), item in zip(forged, rest, strict=True):
            error = item.get("error", {"code": "accepted"})
            check_refused(kind, text, STATUSES.get(error["code"], 200), error)


@pytest.mark.parametrize("escape", [r"\ud800", r"\udfff\ud800", r"\u0000", "\x7f", "\x80\x81"], ids=ascii)
def test_half_a_character_in_a_state_is_the_callers_fault(two, forger, escape):
    text = forger.one()
    body = b'{"inputs": [[1, 2, 3]], "state": "%s"}' % (text[:50] + escape + text[51:]).encode("latin-1")
    status, code, _ = refusal(make_service(two), body)
    assert (status, code) in ((422, "invalid_input"), (400, "malformed_json"))


def peak(work, *arguments):
    """The most bytes that were held at a time while it worked, and what it returned or raised."""
    tracemalloc.start()
    try:
        result = work(*arguments)
    except CellstateError as e:
        result = e
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most, result


SLACK = 64 << 10  # what a request costs that holds no state at all
MAX_BODY = Settings().max_body


@pytest.mark.parametrize("form", FORMS[:3], ids=["a row", "an import", "a first step"])
@pytest.mark.parametrize("length", [4 * 252 + 1, 10_000, 1_000_000, MAX_BODY - 200])
def test_an_oversized_string_takes_no_memory_but_that_of_reading_its_body(two, form, length):
    service, body = make_service(two, state_key=KEY), orjson.dumps(form(0, "A" * length))
    answer(service, {"inputs": ROW})  # whatever is made once, is made
    least, _ = peak(orjson.loads, body)
    most, [outcome] = peak(service.handle_batch, [body])
    error = orjson.loads(outcome.body)["error"]
    assert (outcome.status, error["code"]) == (413, "too_large")
    assert error["message"].startswith(f"state: {length} characters, this model's state has 252")
    assert most < least + SLACK, f"{most} bytes; to parse the body takes {least}"


def test_a_string_over_the_limit_of_a_body_is_not_even_parsed(two):
    service, body = make_service(two), orjson.dumps({"inputs": ROW, "state": "A" * MAX_BODY})
    most, [outcome] = peak(service.handle_batch, [body])
    assert (outcome.status, most < SLACK) == (413, True)


@pytest.mark.parametrize("count", [0, 1, 31, 33, 2**20, 2**30, 2**31, 2**32 - 1, 2**40, 2**62, 2**62 + 32, 2**64 - 1])
def test_no_memory_is_taken_for_what_a_header_claims(two, forger, count):
    header = HEADER.pack(b"CSST", 1, 1, 0, 3, two.signature.digest, count, 0)
    text = encode(state.append_mac(header + two.signature.initial_state.tobytes()))  # without a key a checksum is right for anybody
    service = make_service(two)
    answer(service, {"inputs": ROW, "state": forger.one()})
    most, [outcome] = peak(service.handle_batch, [orjson.dumps({"inputs": ROW, "state": text})])
    assert (outcome.status, most < SLACK) == (422, True), outcome.body


LARGE = replace(TRAFFIC, state=(StateEntry("h", 1, 500_000), StateEntry("c", 1, 500_000)))  # 5.3 million characters
WHOLE = state.to_text(State(np.linspace(-1, 1, LARGE.state_length, dtype=np.float32), 3, LARGE.digest))
DAMAGED = {
    "whole": lambda text: text,
    "one letter changed": lambda text: text[:1000] + ("A" if text[1000] != "A" else "B") + text[1001:],
    "cut in half": lambda text: text[: len(text) // 2],
    "twice": lambda text: text + text,
    "four times": lambda text: text * 4,
    "no letter at all": lambda text: "!" * len(text),
    "not ASCII": lambda text: "é" * len(text),
    "too long": lambda text: text * 4 + "A",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_reading_a_string_takes_a_few_times_its_own_length_at_most(damage):
    text = damage(WHOLE)
    most, result = peak(state.from_text, text, LARGE)
    assert isinstance(result, State) == (text == WHOLE)
    assert most < 4 * len(text) + SLACK, f"{most / len(text):.2f} bytes for each character"


def test_a_forger_makes_the_same_strings_again(forger):
    first = list(itertools.islice(forger.strings(), 300))
    forger.random = Random(0)
    assert list(itertools.islice(forger.strings(), 300)) == first
