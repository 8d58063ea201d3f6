"""Find what goes from one step of a model's own loop over time to the next.

The model is recorded at T = 1, 3 and 4. The calls that T = 4 has more than T = 3 are one step. Whatever the last step reads that the step
before it made is carried from step to step, and the same calls at T = 1 show where it enters and where it leaves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export.errors import LiftError
from export.lift.dataflow import COPIES, Event, Key, Origins, Place
from export.lift.probe import Observation
from export.lift.recorder import Call

REMEDY = (
    "do the same at every step of the loop, begin with zeros made before it, use torch.where in place of writing into the state, and carry "
    "nothing but tensors with a row for each row of x"
)


@dataclass(frozen=True, eq=False)
class Variable:
    """One value that the loop carries: where a step reads it and makes it, at T = 1."""

    places: tuple[Place, ...]
    key: Key
    output: int
    initial: tuple[Tensor | None, ...]  # what the model itself has at each of the places
    value: Tensor  # what the step made
    label: str  # h or c for what a recurrent call returned or takes; m for other memory
    path: str  # of the recurrent module


@dataclass(frozen=True)
class Loop:
    """What a loop carries."""

    restarting: frozenset[str]  # paths of modules that begin anew at every step
    variables: tuple[Variable, ...] | None  # None: the states of the recurrent calls are all


def find(one: Observation, three: Observation, four: Observation) -> Loop:
    """Compare runs with T = 1, 3 and 4. Raises LiftError where the steps differ, or look back by more than one step."""
    restarting, direct = _by_calls(one.calls, three)
    steps = _steps(three.flow.events, four.flow.events)
    last = _window(one.flow.events, three.flow.events, steps)
    if steps is None or last is None:
        if direct:
            return Loop(restarting, None)
        raise LiftError(f"{three.calls[-1].site.path}: the state is changed between two steps, and the steps are not alike: {REMEDY}")
    crossings = _crossings(three, steps)
    if direct and all(crossing.direct for crossing in crossings):
        return Loop(restarting, None)
    return Loop(restarting, tuple(_variables(crossings, one.flow.events[last[0] : last[1]], restarting)))


def _by_calls(one: Sequence[Call], three: Observation) -> tuple[frozenset[str], bool]:
    """Return the modules that begin anew at every step, and whether all others begin with exactly the final state before."""
    origins, restarting, direct = Origins(three.flow.events), set(), True
    for path in {call.site.path for call in one}:
        few = sum(call.site.path == path for call in one)
        many = [call for call in three.calls if call.site.path == path]
        for before, after in zip(many, many[few:], strict=False):
            if after.given is None:
                restarting.add(path)
            elif not all(origins.root(a) is origins.root(b) for a, b in zip(after.given, before.final, strict=True)):
                direct = False
    return frozenset(restarting), direct


@dataclass(frozen=True)
class _Steps:
    length: int  # calls of one step
    end: int  # of the last step, among the calls at T = 3


def _steps(three: Sequence[Event], four: Sequence[Event]) -> _Steps | None:
    """Find the calls of one step, or None where they are not in one piece."""
    a, b = [event.key.code for event in three], [event.key.code for event in four]
    length = len(b) - len(a)
    end = next((i for i, (left, right) in enumerate(zip(a, b, strict=False)) if left != right), len(a))
    step = a[end - length : end]
    if length <= 0 or end < 3 * length or a[end - 2 * length : end - length] != step or a[:end] + step + a[end:] != b:
        return None
    return _Steps(length, end)


def _window(one: Sequence[Event], three: Sequence[Event], steps: _Steps | None) -> tuple[int, int] | None:
    """Return where the only step is among the calls at T = 1, or None if it differs from later steps."""
    if steps is None:
        return None
    end = len(one) - (len(three) - steps.end)
    start = end - steps.length
    if start < 0 or [e.key.code for e in one[start:end]] != [e.key.code for e in three[steps.end - steps.length : steps.end]]:
        return None
    return start, end


@dataclass(frozen=True, eq=False)
class _Crossing:
    """A read in the last step of a value made in the step before: offsets within a step."""

    reader: int
    position: int
    maker: int
    output: int
    direct: bool  # from a recurrent call's final state to the same module's next call


def _crossings(three: Observation, steps: _Steps) -> list[_Crossing]:
    events, origins = three.flow.events, Origins(three.flow.events)
    first, begin = steps.end - 3 * steps.length, steps.end - steps.length
    found = []
    finals = {id(part): call.site.path for call in three.calls for part in call.final}
    for offset, event in enumerate(events[begin : steps.end]):
        for position, value in event.inputs.items():
            producer = origins.producer(value)
            if producer is None or not first <= producer[0] < begin or _is_written_only(event, position, events[begin : steps.end]):
                continue
            maker = producer[0] - (begin - steps.length)
            if maker < 0:
                raise LiftError(f"the loop over time looks back by more than one step{_line(event)}: {REMEDY}")
            if event.mutated is value:
                raise LiftError(f"the loop over time writes into what it carries{_line(event)}: {REMEDY}")
            direct = event.is_recurrent and position > 0 and finals.get(id(origins.root(value))) == event.name
            found.append(_Crossing(offset, position, maker, producer[1], direct or _copied_to_call(event, events, finals, origins)))
    return found


def _copied_to_call(event: Event, events: Sequence[Event], finals: Mapping[int, str], origins: Origins) -> bool:
    """Return whether a view or copy of a final state is read by nothing but the same module's next call."""
    if event.name not in COPIES or not event.outputs:
        return False
    path = finals.get(id(origins.root(event.outputs[0])))
    readers = [(e.name, p) for e in events for p, value in e.inputs.items() if value is event.outputs[0]]
    return path is not None and bool(readers) and all(name == path and position > 0 for name, position in readers)


def _is_written_only(event: Event, position: int, step: Sequence[Event]) -> bool:
    """Return whether an argument is a buffer of results, which the loop writes into and does not read."""
    value = event.inputs[position]
    if event.name != "__setitem__" or position != 0:
        return False
    storage = value.untyped_storage()._cdata
    return not any(
        other.untyped_storage()._cdata == storage for e in step for p, other in e.inputs.items() if not (e.name == "__setitem__" and p == 0)
    )


def _variables(crossings: Sequence[_Crossing], step: Sequence[Event], restarting: frozenset[str]) -> list[Variable]:
    """Group the crossings by what they carry, and find them at T = 1."""
    groups: dict[tuple[int, int], list[_Crossing]] = {}
    for crossing in crossings:
        groups.setdefault((crossing.maker, crossing.output), []).append(crossing)
    found = []
    for (maker, output), reads in groups.items():
        places = tuple(Place(step[read.reader].key, read.position) for read in reads)
        initial = tuple(step[read.reader].inputs.get(read.position) for read in reads)
        path, label = _label([(step[r.reader], r.position) for r in reads], step[maker], output)
        found.append(Variable(places, step[maker].key, output, initial, step[maker].outputs[output], label, path))
    return found


def _label(reads: Sequence[tuple[Event, int]], maker: Event, output: int) -> tuple[str, str]:
    """Return the recurrent module that makes or reads the value, and h or c; else no module, and m."""
    for event, position in reads:
        if event.is_recurrent and position > 0:
            return event.name, "hc"[position - 1]
    if maker.is_recurrent:
        return maker.name, "hc"[max(output - 1, 0)]
    return "", "m"


def initial_values(variable: Variable) -> list[Tensor]:
    """Return what the model has at the variable's places before its first step, with zeros where it passes nothing."""
    return [torch.zeros_like(variable.value) if value is None else value for value in variable.initial]


def _line(event: Event) -> str:
    if not event.key.place:
        return ""
    code, instruction = event.key.place
    line = next((number for start, stop, number in code.co_lines() if start <= instruction < stop), None)
    return f" (at {code.co_filename}:{line})" if line else ""
