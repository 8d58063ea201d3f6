"""Record what a deployment was asked and what it answered, as JSON Lines, and read such a record back.

An operation is two lines: one written before the request is sent, one when the answer has arrived. The record of a client that was
killed therefore still has the request in flight. Each line is one write to a file opened for appending, so several processes may
record into one file. Inputs are row ranges of a pool of rows, which `loadtests.offline.pool` makes again from the seed in the header.
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

FORMAT = 2
REFUSALS = range(400, 500)  # with a code of the service's own, these tell where the session is
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Invocation:
    """One request. `inputs` are rows `start .. stop` of the pool; `state` is the digest of an exported state string."""

    client: str
    session: str
    action: str = "step"
    step: int | None = None
    inputs: tuple[int, int] | None = None
    commit: bool = True
    generation: int | None = None
    to: str | None = None
    from_step: int | None = None
    state: str | None = None
    server: int = 0  # index of the URL that the request was sent to

    def __str__(self) -> str:
        """Describe the request for a report, without client and server."""
        parts = [self.action if self.action != "step" else "step" if self.commit else "what-if step"]
        parts += [f"to {self.to}"] if self.to else []
        parts += [f"{self.step}"] if self.step is not None else ["without a number"] if self.action == "step" else []
        parts += [f"from {self.from_step}"] if self.from_step is not None else []
        parts += [f"in generation {self.generation}"] if self.generation is not None else []
        parts += [f"of {self.inputs[1] - self.inputs[0]} rows"] if self.inputs else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `status` is None when no complete response arrived."""

    status: int | None = None
    code: str = ""  # of the service's own errors; empty for errors of the server in front of it
    session: str | None = None
    step: int | None = None
    generation: int | None = None
    replayed: bool = False
    closed: bool = False
    expected: int | None = None
    prediction: Any = None  # nested lists of numbers, as in the response
    state: str | None = None
    not_applied: bool = False  # the request was never sent, or the response says that nothing was applied
    detail: str = ""  # the error in words

    @property
    def known(self) -> bool:
        """Whether the answer tells where the session was at some moment between request and response."""
        return not self.not_applied and (self.status == 200 or (self.status in REFUSALS and self.code != ""))

    def __str__(self) -> str:
        generation = f" in generation {self.generation}" if self.generation is not None else ""
        if self.status != 200:
            position = f", expected {self.expected}{generation}" if self.expected is not None else ""
            return f"{self.status} {self.code or self.detail}{position}" if self.status else f"no answer ({self.detail})"
        flags = [name for name in ("replayed", "closed") if getattr(self, name)]
        return " ".join([f"200, {self.session} at {self.step}{generation}", *flags])


@dataclass(frozen=True)
class Operation:
    """One request with its answer. Times are seconds of one monotonic clock; an operation without an answer never ends."""

    number: int
    invocation: Invocation
    start: float
    end: float = math.inf
    answer: Answer = field(default_factory=Answer)

    @cached_property
    def known(self) -> bool:
        """Whether the answer tells where the session was."""
        return self.answer.known

    @property
    def unknown(self) -> bool:
        """Whether the request may have taken effect, or may still take effect."""
        return not self.known and not self.answer.not_applied

    def __str__(self) -> str:
        asked = self.invocation
        return f"operation {self.number} ({asked.client}: {asked} on {asked.session} → {self.answer})"


@dataclass
class History:
    """A record that was read: its header, its operations in the order of their start, and its notes."""

    head: dict[str, Any]
    operations: list[Operation]
    notes: list[str]


class Recorder:
    """Append operations and notes to `path`. The recorder that is given a `head` writes the header."""

    def __init__(self, path: Path, head: Mapping[str, Any] | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._invocations = 0
        if head is not None:
            self._write({"history": FORMAT, "epoch": time.time(), "at": time.monotonic(), **head})

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def invoke(self, invocation: Invocation) -> int:
        """Record a request that is about to be sent, and return its number."""
        self._invocations += 1
        self._write({"invocation": self._invocations, "at": time.monotonic(), **_given(invocation)})
        return self._invocations

    def answer(self, number: int, answer: Answer) -> None:
        """Record the answer to request `number`."""
        self._write({"answer": number, "at": time.monotonic(), **_given(answer)})

    def note(self, text: str) -> None:
        """Record what was done to the deployment, such as a kill."""
        self._write({"note": text, "at": time.monotonic()})

    def _write(self, line: Mapping[str, Any]) -> None:
        os.write(self._file, orjson.dumps(line) + b"\n")


def _given(value: Invocation | Answer) -> dict[str, Any]:
    """Return the fields that differ from their defaults."""
    defaults = {f.name: f.default for f in fields(value)}
    return {name: given for name, given in asdict(value).items() if given != defaults[name]}


def read(path: Path) -> History:
    """Read a history, leaving out an incomplete last line.

    Raises:
        ValueError: the file is not a history of this format.
        OSError: the file cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    parsed = [orjson.loads(line) for line in lines[:-1] if line]
    heads = [line for line in parsed if "history" in line]
    if len(heads) != 1 or heads[0]["history"] != FORMAT:
        raise ValueError(f"{path}: expected one header of format {FORMAT}, found {[line['history'] for line in heads]}")
    answers = {line["answer"]: line for line in parsed if "answer" in line}
    operations = [_operation(line, answers.get(line["invocation"])) for line in parsed if "invocation" in line]
    return History(heads[0], sorted(operations, key=lambda o: o.start), [line["note"] for line in parsed if "note" in line])


def _operation(asked: dict[str, Any], answered: dict[str, Any] | None) -> Operation:
    invocation = _read(Invocation, asked)
    if answered is None:
        return Operation(asked["invocation"], invocation, asked["at"])
    return Operation(asked["invocation"], invocation, asked["at"], answered["at"], _read(Answer, answered))


def _read(kind: type[T], line: dict[str, Any]) -> T:
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]  # both are dataclasses
    values = {name: value for name, value in line.items() if name in names}
    if values.get("inputs") is not None:
        values["inputs"] = tuple(values["inputs"])
    return kind(**values)
