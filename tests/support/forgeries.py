"""State strings that no service ever returned: one change each to strings that one did. Seeded: the same forger makes the same strings.

It knows the layout of a state (handlers/sessions/state.py). It sends nothing.
"""

import base64
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from handlers.sessions import state
from handlers.sessions.state import HEADER, MAC_BYTES, MAX_POSITION, State
from handlers.signature import Signature
from tests.support.edits import EDITS, LETTERS, junk

NO_LETTERS = " \n\r\t\0\x0b\x7f.,;:!\"'%&=+/\\~\xa0\xad\u2028\ufeff\u200b\u202e\U0001f600"
LOOK_ALIKES = {"A": "А", "B": "В", "C": "С", "E": "Е", "a": "а", "e": "е", "o": "о", "-": "‐", "_": "＿", "0": "０", "1": "１", "=": "＝"}
OTHER_KEY = b"not the operator's key"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text)


@dataclass
class Forger:
    """`held`: strings of this model, as they were returned under `key` (empty: none). `others`: those of other models, same key."""

    signature: Signature
    key: bytes
    held: Sequence[str]
    others: Sequence[str]
    random: Random = field(default_factory=lambda: Random(0))

    def strings(self) -> Iterator[tuple[str, str]]:
        """(what was done, the string), every kind in turn, for ever. None is one of `held`."""
        genuine = set(self.held)
        for name, kind in itertools.cycle(kinds(keyed=bool(self.key)).items()):
            made = kind(self)
            while made in genuine:  # a splice at the very end, a swap of two equal letters
                made = kind(self)
            yield name, made

    def one(self) -> str:
        return self.random.choice(self.held)


def flip_bit(f: Forger) -> str:
    data = bytearray(decode(f.one()))
    data[f.random.randrange(len(data))] ^= 1 << f.random.randrange(8)
    return encode(bytes(data))


def splice(f: Forger) -> str:
    """The beginning of one string, the end of another."""
    (a, b), at = f.random.sample(f.held, 2), f.random.randrange(len(f.held[0]))
    return a[:at] + b[at:]


def splice_with_another_models(f: Forger) -> str:
    a, b = decode(f.one()), decode(f.random.choice(f.others))
    at = f.random.randrange(min(len(a), len(b)))
    return encode(f.random.choice((a[:at] + b[at:], b[:at] + a[at:])))


def values_of_another(f: Forger) -> str:
    """Header and seal of one state, the values of another."""
    a, b = map(decode, f.random.sample(f.held, 2))
    return encode(a[: HEADER.size] + b[HEADER.size : -MAC_BYTES] + a[-MAC_BYTES:])


# The same bytes, spelt otherwise.


def standard_alphabet(f: Forger) -> str:
    text = next(text for text in iter(f.one, "") if set(text) & set("-_"))
    return base64.b64encode(decode(text)).decode()


def trailing_bits(f: Forger) -> str:
    """The last letter before the padding has bits that mean nothing."""
    text = next(text for text in iter(f.one, "") if text.endswith("="))
    bare = text.rstrip("=")
    last = LETTERS.index(bare[-1]) | f.random.randint(1, 3 if text.count("=") == 1 else 15)
    return bare[:-1] + LETTERS[last] + text[len(bare) :]


def padding(f: Forger) -> str:
    text = f.one()
    at = f.random.randrange(len(text))
    bare = text.rstrip("=")
    return f.random.choice((bare + "=" * f.random.choice((0, 2, 3, 4, 5)), text[:at] + "=" * f.random.randint(1, 3) + text[at:]))


def blanks(f: Forger) -> str:
    text, blank = f.one(), f.random.choice(" \n\r\t") * f.random.randint(1, 3)
    at = f.random.choice((0, len(text), f.random.randrange(len(text))))
    return text[:at] + blank + text[at:]


def lines(f: Forger) -> str:
    """As mail and PEM do."""
    text, width = f.one(), f.random.randint(4, 76)
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def no_letter(f: Forger) -> str:
    text, at = f.one(), f.random.randrange(len(f.held[0]))
    return text[:at] + f.random.choice(NO_LETTERS) + text[at + f.random.randint(0, 1) :]


def look_alike(f: Forger) -> str:
    text = f.one()
    at = f.random.choice([i for i, letter in enumerate(text) if letter in LOOK_ALIKES])
    return text[:at] + LOOK_ALIKES[text[at]] + text[at + 1 :]


def other_case(f: Forger) -> str:
    return f.random.choice((str.lower, str.upper, str.swapcase))(f.one())


def other_encoding(f: Forger) -> str:
    data = decode(f.one())
    made = f.random.choice((base64.b16encode, base64.b32encode, base64.b85encode, bytes.hex, base64.urlsafe_b64encode))(data)
    return made if isinstance(made, str) else encode(made) if f.random.random() < 0.5 else made.decode()


# Bodies that lie. How they are sealed is the forger's means.

NAMES = ("magic", "format", "dtype", "flags", "position", "digest", "count", "reserved")
COUNTS = (0, 1, 2**24, 2**30, 2**31 - 1, 2**32, 2**62, 2**62 + 1, 2**63, 2**64 - 1)
LIES: dict[str, Callable[[Forger, int], int | bytes]] = {
    "magic": lambda f, _: f.random.choice((b"CSRE", b"csst", b"TSSC", b"PK\3\4", b"\x80\4\x95\0", f.random.randbytes(4))),
    "format": lambda f, _: f.random.randrange(256),
    "dtype": lambda f, _: f.random.randrange(256),
    "flags": lambda f, old: f.random.choice((old ^ 1, old ^ 1 << f.random.randrange(16), f.random.randrange(1 << 16))),
    "position": lambda f, old: f.random.choice((0, old + 1, MAX_POSITION, f.random.randrange(MAX_POSITION))),
    "digest": lambda f, _: f.random.choice((bytes(16), f.random.randbytes(16), decode(f.random.choice(f.others))[16:32])),
    "count": lambda f, old: f.random.choice((old - 1, old + 1, 2 * old, f.random.choice(COUNTS))),
    "reserved": lambda f, _: f.random.randrange(1 << 32),
}
OURS, NO_KEY, ANOTHER_KEY = "with our key", "without a key", "with another key"


def lie(name: str) -> Callable[[Forger, bytes], bytes]:
    """A body with that field of its header changed."""

    def change(f: Forger, body: bytes) -> bytes:
        header = dict(zip(NAMES, HEADER.unpack_from(body), strict=True))
        made = LIES[name](f, header[name])
        return HEADER.pack(*(header | {name: made}).values()) + body[HEADER.size :]

    return change


def beyond(f: Forger, body: bytes) -> bytes:
    """A position that no state can have."""
    position = f.random.choice((MAX_POSITION + 1, 2**63 - 1, 2**63, 2**64 - 1, f.random.randrange(MAX_POSITION + 1, 2**64)))
    return body[:8] + position.to_bytes(8, "little") + body[16:]


def not_finite(f: Forger, body: bytes) -> bytes:
    values = np.frombuffer(body, "<f4", offset=HEADER.size).copy()
    values[f.random.randrange(len(values))] = f.random.choice((np.nan, np.inf, -np.inf))
    return body[: HEADER.size] + values.tobytes()


def another_size(f: Forger, body: bytes) -> bytes:
    """A state of fewer or more values, whole in itself."""
    values = np.frombuffer(body, "<f4", offset=HEADER.size)
    size = f.random.choice([n for n in range(2 * len(values)) if n != len(values)])
    return state.pack(State(np.resize(values, size), 1, f.signature.digest), signed=bool(f.key))


def new_value(f: Forger, body: bytes) -> bytes:
    at = HEADER.size + 4 * f.random.randrange(f.signature.state_length)
    return body[:at] + np.float32(f.random.uniform(-1, 1)).tobytes() + body[at + 4 :]


def unsigned(f: Forger, body: bytes) -> bytes:
    """Without the flag that says signed, everything else as it was."""
    return body[:6] + b"\0\0" + body[8:]


def stale(change: Callable[[Forger, bytes], bytes]) -> Callable[[Forger], str]:
    """The changed body under the seal of the old one."""

    def forge(f: Forger) -> str:
        data = decode(f.one())
        return encode(change(f, data[:-MAC_BYTES]) + data[-MAC_BYTES:])

    return forge


def resealed(change: Callable[[Forger, bytes], bytes], means: str) -> Callable[[Forger], str]:
    """The changed body under a new seal."""

    def forge(f: Forger) -> str:
        key = {OURS: f.key, NO_KEY: b"", ANOTHER_KEY: OTHER_KEY}[means]
        return encode(state.append_mac(change(f, decode(f.one())[:-MAC_BYTES]), key))

    return forge


def of_another_model(f: Forger) -> str:
    return f.random.choice(f.others)


def oversized(f: Forger) -> str:
    """Longer than any string that is looked into; now and then a string of ours is its beginning."""
    length = f.random.randint(4 * state.text_length(f.signature) + 1, 40 * state.text_length(f.signature))
    return (f.random.choice((f.one(), "")) + junk(f.random, "", 64) * (length // 64 + 1))[:length]


SPELLINGS = (standard_alphabet, trailing_bits, padding, blanks, lines, no_letter, look_alike, other_case, other_encoding)
CHANGES = {name: lie(name) for name in NAMES} | {"beyond": beyond, "not finite": not_finite, "size": another_size, "value": new_value}
NEVER = {name: CHANGES[name] for name in CHANGES if name not in ("position", "value")}  # wrong under any seal
Forgeries = dict[str, Callable[[Forger], str]]


def edited() -> Forgeries:
    """Every edit of the bytes and of the letters."""
    made: Forgeries = {}
    for edit in EDITS:
        made[f"{edit.__name__} of the bytes"] = lambda f, edit=edit: encode(edit(f.random, decode(f.one())))
        made[f"{edit.__name__} of the letters"] = lambda f, edit=edit: edit(f.random, f.one())
    return made


def kinds(*, keyed: bool) -> Forgeries:
    """Everything that must be refused. Without a key, whoever can compute a checksum can make a state: that is documented, and not here."""
    plain = (flip_bit, splice, splice_with_another_models, values_of_another, of_another_model, oversized, *SPELLINGS)
    made = edited() | {kind.__name__: kind for kind in plain}
    made |= {f"{name}, {OURS}": resealed(change, OURS) for name, change in NEVER.items()}
    for name, change in CHANGES.items():
        made |= {f"{name}, old seal": stale(change), f"{name}, {ANOTHER_KEY}": resealed(change, ANOTHER_KEY)}
        if keyed:
            made[f"{name}, {NO_KEY}"] = resealed(change, NO_KEY)
    if keyed:
        made |= {f"unsigned, {means}": resealed(unsigned, means) for means in (NO_KEY, ANOTHER_KEY, OURS)}
    return made
