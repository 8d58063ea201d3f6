"""Bodies that cannot be served, made by putting every odd value in every place of a good one, and by hand where a rule has an edge.

Everything here must be answered with a 4xx. It knows the request format of a model with 3 features; it sends nothing.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

GOOD = b'{"inputs":[[50,0,1],[51.5,0.5,-1]],"return":["prediction","h_n"]}'
JSON = "application/json"
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="data"\r\nContent-Type: text/plain; %s\r\n\r\n{}\r\n--x--\r\n'


class Odd(NamedTuple):
    """One body, what is odd about it, and the content type it is sent with."""

    what: str
    body: bytes
    content_type: str | None = JSON


NUMBERS = {"0": "0", "1": "1", "1.5": "1.5", "-1": "-1", "2**63": str(2**63), "1e30": "1" + "0" * 30}
VALUES = NUMBERS | {
    "null": "null",
    "true": "true",
    "false": "false",
    "1e39": "1e39",
    "-1e39": "-1e39",
    "1e999": "1e999",
    "an integer of 401 digits": "1" + "0" * 400,
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "text": '"text"',
    "a number as text": '"1"',
    "no text": '""',
    "a control character": '"\\u0000"',
    "half a character": '"\\ud800"',
    "an empty list": "[]",
    "an empty object": "{}",
    "an object": '{"a":1}',
    "a list of null": "[null]",
    "a list of text": '["text"]',
    "a list of objects": "[{}]",
    "a list of lists": "[[[1]]]",
    "300 lists in each other": "[" * 300 + "]" * 300,
    "100,000 opening brackets": "[" * 100_000,
}

STATE = '"c_n":[[{0}],[{0}]]'.format(",".join("0" * 16))
ROW = ",".join("0" * 16)

# Where a value is put, and the values that are right there.
PLACES: dict[str, set[str]] = {
    "%s": set(),
    '{"inputs":%s}': set(),
    '{"inputs":[%s]}': set(),
    '{"inputs":[[1,2,%s]]}': set(NUMBERS),
    '{"inputs":[[1,2,3],[%s,2,3]]}': {*NUMBERS, "null"},  # that column may be missing
    '{"inputs":[[1,2,3],%s]}': set(),
    '{"inputs":[[1,2,3]],"return":%s}': {"an empty list"},
    '{"inputs":[[1,2,3]],"return":["h_n",%s]}': set(),
    '{"inputs":[[1,2,3]],"session":%s}': {"an empty object"},
    '{"inputs":[[1,2,3]],"session":{"id":%s,"step":1}}': set(),
    '{"inputs":[[1,2,3]],"session":{"id":"odd","step":%s}}': {"0"},
    '{"inputs":[[1,2,3]],"session":{"id":"odd","action":%s}}': set(),
    '{"session":{"id":"odd","action":"fork","to":%s}}': set(),
    '{"inputs":[[1,2,3]],"state":%s}': set(),
    '{"inputs":[[1,2,3]],"state":{"h_n":%s,' + STATE + "}}": set(),
    '{"inputs":[[1,2,3]],"state":{"h_n":[[' + ROW + "],%s]," + STATE + "}}": set(),
    '{"inputs":[[1,2,3]],"state":{"h_n":[[' + ROW + "],[" + ROW[:-1] + "%s]]," + STATE + "}}": set(NUMBERS),
    '{"inputs":[[1,2,3]],"horizon":%s}': {"0"},
    '{"inputs":[[1,2,3]],"horizon":%s,"future":[[1,2]]}': {"1"},
    '{"inputs":[[1,2,3]],"horizon":1,"future":%s}': set(),
    '{"inputs":[[1,2,3]],"horizon":1,"future":[%s]}': set(),
    '{"inputs":[[1,2,3]],"horizon":1,"future":[[1,%s]]}': set(NUMBERS),
    '{"inputs":[[1,2,3]],"session":{"id":"odd","step":0},"commit":%s}': {"true", "false"},
    '{"inputs":[[1,2,3]],"odd":%s}': set(),
    '{"instances":%s}': {v for v in VALUES if v.startswith(("a list of", "300"))},  # a row that fails fails alone
}


def misplaced() -> Iterator[Odd]:
    """Every value in every place where it is wrong."""
    for place, right in PLACES.items():
        for name, value in VALUES.items():
            if name not in right:
                yield Odd(f"{name} in {place[:70]}", place.replace("%s", value).encode())


def cut_short() -> Iterator[Odd]:
    """A good body that ends too early, at every byte."""
    for length in range(len(GOOD)):
        yield Odd(f"the first {length} bytes of a good body", GOOD[:length])


def misspelt() -> Iterator[Odd]:
    """Fields, names and ids that the contract does not have."""
    for name in ("input", "Inputs", "inputs ", "", "h_0", "session_id", "__proto__", "\u00e9", "x" * 100_000):
        yield Odd(f"the field {name[:20]!r}", json.dumps({"inputs": [[1, 2, 3]], name: 1}).encode())
    for name in ("predictions", "H_N", "h", "", "c_0", "y"):
        yield Odd(f"return {name!r}", json.dumps({"inputs": [[1, 2, 3]], "return": [name]}).encode())
    for id in ("", " ", "a b", "x" * 129, "a\n", "\u00e9", "a\u0000b", "a?b", "{}", "'", '"', "\U0001f600"):
        yield Odd(f"the id {id[:20]!r}", json.dumps({"inputs": [[1, 2, 3]], "session": {"id": id, "step": 0}}).encode())
    for session in ({"id": "odd", "steps": 0}, {"Id": "odd"}, {"id": "odd", "step": 0, "action": "reset"}):
        yield Odd(f"session {session}", json.dumps({"inputs": [[1, 2, 3]], "session": session}).encode())


def unknown() -> Iterator[Odd]:
    """Sessions that are not there, whatever is asked of them."""
    row = [[1, 2, 3]]
    for step in (1, 7, 2**53, 2**53 + 1, 2**63 - 1):
        yield Odd(f"step {step} of no session", json.dumps({"inputs": row, "session": {"id": "odd", "step": step}}).encode())
    for action in ("describe", "close", "export"):
        yield Odd(f"{action} of no session", json.dumps({"session": {"id": "odd", "action": action}}).encode())
    yield Odd("fork of no session", b'{"session":{"id":"odd","action":"fork","to":"odd-2"}}')
    yield Odd("fork onto itself", b'{"session":{"id":"odd","action":"fork","to":"odd"}}')
    yield Odd("import of nothing", b'{"session":{"id":"odd","action":"import"}}')
    yield Odd("commit without a session", b'{"inputs":[[1,2,3]],"commit":false}')
    yield Odd("a step without an id", b'{"inputs":[[1,2,3]],"session":{"step":3}}')


def ragged() -> Iterator[Odd]:
    """Rows of unequal or wrong length."""
    for lengths in ((2,), (4,), (3, 2), (3, 3, 4), (0,), (3, 0), (3,) * 500 + (2,), (100_000,)):
        rows = [[1] * length for length in lengths]
        yield Odd(f"rows of {lengths[:5]} numbers", json.dumps({"inputs": rows}).encode())
        yield Odd(f"a state of rows of {lengths[:5]}", json.dumps({"inputs": [[1, 2, 3]], "state": {"h_n": rows, "c_n": rows}}).encode())


def too_much() -> Iterator[Odd]:
    """One more than a limit allows; the last is beyond the host's own."""
    rows = b",".join([b"[1,2,3]"] * 10_001)
    yield Odd("10,001 steps", b'{"inputs":[' + rows + b"]}")
    yield Odd("4097 instances", b'{"instances":[' + b",".join([GOOD] * 4097) + b"]}")
    yield Odd("a horizon of 1,001", json.dumps({"inputs": [[1, 2, 3]], "horizon": 1001, "future": [[1, 2]] * 1001}).encode())
    yield Odd("4.1 MB", GOOD + b" " * 4_100_000)
    yield Odd("5 MB", GOOD + b" " * 5_000_000)


def broken_text(seed: int = 11) -> Iterator[Odd]:
    """What is not UTF-8, or not JSON alone."""
    yield Odd("a byte order mark", b"\xef\xbb\xbf" + GOOD)
    yield Odd("UTF-16", GOOD.decode().encode("utf-16"))
    yield Odd("UTF-32", GOOD.decode().encode("utf-32"))
    yield Odd("an overlong slash", b'{"inputs":"\xc0\xaf"}')
    yield Odd("a byte after the end", GOOD + b"}")
    yield Odd("two documents", GOOD + b"\n" + GOOD)
    yield Odd("zeros", bytes(64))
    yield Odd("a pickle", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94.")
    yield Odd("single quotes", GOOD.replace(b'"', b"'"))
    yield Odd("a comment", GOOD.replace(b",", b",/**/", 1))
    yield Odd("a trailing comma", GOOD[:-1] + b",}")
    rng = np.random.default_rng(seed)
    for length in (1, 3, 17, 300, 5000):
        yield Odd(f"{length} random bytes", b"\xff" + rng.bytes(length))


def broken_states(state: str) -> Iterator[Odd]:
    """State strings that are almost the one given."""
    rng = np.random.default_rng(12)
    texts = {"nothing": "", "one letter": "A", "no base64": "*" * len(state), "the end missing": state[:-4], "twice": state * 2}
    texts |= {"very long": "A" * 1_000_000, "standard base64": state[:-1] + "/", "only magic": "Q1NTVA==", "a space": " " + state}
    for position in rng.choice(len(state) - 4, 12, replace=False).tolist():
        other = "A" if state[position] != "A" else "B"
        texts[f"letter {position} changed"] = state[:position] + other + state[position + 1 :]
    for what, text in texts.items():
        yield Odd(f"a state string: {what}", json.dumps({"inputs": [[1, 2, 3]], "state": text}).encode())


CONTENT_TYPES = (
    None, "", "text/plain", "text/plain; charset=utf-16", "application/octet-stream", "application/x-www-form-urlencoded",
    "multipart/form-data", "multipart/form-data; boundary=x", "multipart/mixed; boundary=", "application/xml", "image/png",
    "application/json; charset=latin-1", "a" * 4000, "\u00ff\u00fe",
)  # fmt: skip


def mislabelled() -> Iterator[Odd]:
    """Odd bodies under content types that make a host parse them in its own ways."""
    bodies = {
        "cut short": GOOD[:-2],
        "empty": b"",
        "a form with no such field": b"x=1&y=%ff",
        "a form field that is no JSON": b"data=%7Bnope",
        "half a multipart": b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n{nope',
        "a multipart file": b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../f"\r\n\r\n[1]\r\n--x--\r\n',
        "not UTF-8": b"\xff\xfe{}",
    }
    for content_type in CONTENT_TYPES:
        for what, body in bodies.items():
            yield Odd(f"{what}, as {str(content_type)[:40]}", body, content_type)
    for name in (b"content-encoding", b"Inference-Header-Content-Length", b"traceparent", b"explain", b"authorization"):
        part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\ngzip\r\n--x--\r\n' % name
        yield Odd(f"a form field that is called as the header {name.decode()}", name + b"=gzip", FORM)
        yield Odd(f"a part that is called as the header {name.decode()}", part, MULTIPART)
    yield Odd("a part of an unknown encoding", PART % b"x\r\nContent-Transfer-Encoding: none", MULTIPART)
    yield Odd("a part of a length that is no number", PART % b"x\r\nContent-Length: none", MULTIPART)


def undecodable() -> list[Odd]:
    """Forms that the host takes apart itself, and cannot."""
    return [
        Odd("a form field without a name", b"=1", FORM),
        Odd("a form field with half an escape", b"data=%7", FORM),
        Odd("a form field that escapes no hexadecimal", b"data=%zz", FORM),
        Odd("a part without a name", b"--x\r\n\r\n{}\r\n--x--\r\n", MULTIPART),
        Odd("a part of an unknown character set", PART % b"charset=none", MULTIPART),
    ]


def mutations(count: int, seed: int = 13) -> Iterator[Odd]:
    """A good body with a few bytes changed; some of these are good still."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b'{}[]",:0123456789.eE+-\\ntu \x00\xff', np.uint8)
    for i in range(count):
        body = np.frombuffer(GOOD, np.uint8).copy()
        places = rng.integers(len(body), size=rng.integers(1, 4))
        body[places] = rng.choice(letters, size=len(places))
        yield Odd(f"mutation {i}", body.tobytes())


def bodies(state: str) -> list[Odd]:
    """All that must be refused; `state` is a good state string of the model."""
    makers = (misplaced(), cut_short(), misspelt(), unknown(), ragged(), too_much(), broken_text(), broken_states(state), mislabelled())
    return [odd for maker in makers for odd in maker]
