"""A recorded history: what was asked of a deployment, by whom and when, and what came back. JSON Lines, appended as it happens.

An operation is two lines, one when it is asked and one when it is answered: of a client that was killed, what it had asked is on record.
Each line is one write to a file opened for appending, so several processes may record into one file. Inputs are named by their
place in a pool of rows that the header's seed makes again. This module knows lines; it does not know what a right answer is.
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import orjson

FORMAT = 1
DEFINITE = range(400, 500)  # statuses of our own refusals: where the session is, said by the service
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `inputs` are rows `start .. stop` of the pool; `state` is a digest of an exported state string."""

    who: str
    session: str
    action: str = "step"
    step: int | None = None
    inputs: tuple[int, int] | None = None
    commit: bool = True
    to: str | None = None
    origin: int | None = None  # `from` of a rewind
    state: str | None = None
    server: int = 0  # which of the URLs

    def __str__(self) -> str:
        """As a reader of a report wants it, without who and where."""
        parts = [self.action if self.action != "step" else "step" if self.commit else "what-if step"]
        parts += [f"to {self.to}"] if self.to else []
        parts += [f"{self.step}"] if self.step is not None else ["without a number"] if self.action == "step" else []
        parts += [f"from {self.origin}"] if self.origin is not None else []
        parts += [f"of {self.inputs[1] - self.inputs[0]} rows"] if self.inputs else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. No status: nothing whole did. `nothing`: it is known, or was said, that nothing was applied."""

    status: int | None = None
    code: str = ""  # of our own errors; empty for the host's
    session: str | None = None
    step: int | None = None
    replayed: bool = False
    closed: bool = False
    expected: int | None = None
    prediction: Any = None  # as in the reply: nested lists of numbers
    state: str | None = None
    nothing: bool = False
    said: str = ""  # the error in words

    @property
    def known(self) -> bool:
        """Whether it tells where the session was at some moment between request and answer."""
        return not self.nothing and (self.status == 200 or (self.status in DEFINITE and self.code != ""))

    def __str__(self) -> str:
        if self.status != 200:
            at = f", expected {self.expected}" if self.expected is not None else ""
            return f"{self.status} {self.code or self.said}{at}" if self.status else f"no answer ({self.said})"
        flags = [name for name in ("replayed", "closed") if getattr(self, name)]
        return " ".join([f"200, {self.session} at {self.step}", *flags])


@dataclass(frozen=True)
class Operation:
    """One request and its fate. Times are seconds of one monotonic clock; without an answer it never ends."""

    number: int
    ask: Ask
    start: float
    end: float = math.inf
    answer: Answer = field(default_factory=Answer)

    @cached_property
    def known(self) -> bool:
        return self.answer.known

    @property
    def unknown(self) -> bool:
        """Whether it may have taken effect, or may yet."""
        return not self.known and not self.answer.nothing

    def __str__(self) -> str:
        return f"operation {self.number} ({self.ask.who}: {self.ask} on {self.ask.session} → {self.answer})"


@dataclass
class History:
    """A file, read: its header, its operations in the order of their start, and notes of what happened to the deployment."""

    head: dict[str, Any]
    operations: list[Operation]
    notes: list[str]


class Recorder:
    """Appends to `path`. The first to open it writes the header."""

    def __init__(self, path: Path, head: Mapping[str, Any] | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._asked = 0
        if head is not None:
            self._write({"history": FORMAT, "epoch": time.time(), "at": time.monotonic(), **head})

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def ask(self, ask: Ask) -> int:
        """Record a request that is about to be sent; its number."""
        self._asked += 1
        self._write({"ask": self._asked, "at": time.monotonic(), **_said(ask)})
        return self._asked

    def answer(self, number: int, answer: Answer) -> None:
        """Record what came back, when it has."""
        self._write({"answer": number, "at": time.monotonic(), **_said(answer)})

    def note(self, text: str) -> None:
        """Record what was done to the deployment."""
        self._write({"note": text, "at": time.monotonic()})

    def _write(self, line: Mapping[str, Any]) -> None:
        os.write(self._file, orjson.dumps(line) + b"\n")


def _said(value: Ask | Answer) -> dict[str, Any]:
    """The fields that say something."""
    defaults = {f.name: f.default for f in fields(value)}
    return {name: given for name, given in asdict(value).items() if given != defaults[name]}


def read(path: Path) -> History:
    """Read a history. A torn last line, of a client that was killed, is left out. Raises ValueError for anything else that is none."""
    lines = path.read_bytes().split(b"\n")
    parsed = [orjson.loads(line) for line in lines[:-1] if line]
    heads = [line for line in parsed if "history" in line]
    if len(heads) != 1 or heads[0]["history"] != FORMAT:
        raise ValueError(f"{path}: expected one header of format {FORMAT}, found {len(heads)}")
    answers = {line["answer"]: line for line in parsed if "answer" in line}
    operations = [_operation(line, answers.get(line["ask"])) for line in parsed if "ask" in line]
    return History(heads[0], sorted(operations, key=lambda o: o.start), [line["note"] for line in parsed if "note" in line])


def _operation(asked: dict[str, Any], answered: dict[str, Any] | None) -> Operation:
    ask = _read(Ask, asked)
    if answered is None:
        return Operation(asked["ask"], ask, asked["at"])
    return Operation(asked["ask"], ask, asked["at"], answered["at"], _read(Answer, answered))


def _read(kind: type[T], line: dict[str, Any]) -> T:
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # both are dataclasses
    values = {name: value for name, value in line.items() if name in names}
    if values.get("inputs") is not None:
        values["inputs"] = tuple(values["inputs"])
    return kind(**values)
