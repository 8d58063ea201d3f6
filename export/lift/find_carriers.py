"""Decide which states a stream of a model carries, and where each enters and leaves a forward pass."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from export.errors import LiftError
from export.lift import loop_state, probe
from export.lift.arguments import Arguments, Leaf
from export.lift.carriers import ArgumentState, BatchShape, Carrier, LoopState, SiteState
from export.lift.dataflow import Origins
from export.lift.loop_state import Loop, Variable
from export.lift.probe import Observation
from export.lift.recorder import Call, Site
from handlers.signature import StateEntry


@dataclass(frozen=True)
class Named:
    """A carrier whose entries have no names yet: the path of its module, and the last part of each name."""

    carrier: Any
    site: Site
    labels: tuple[str, ...]


def find_carriers(
    arguments: Arguments, one: Observation, other: Observation, loop: Sequence[Observation], not_carried: AbstractSet[Site]
) -> tuple[tuple[Carrier, ...], Site]:
    """Return the carriers, and the site whose output is the graph's `output`.

    `one` and `other` are runs on different inputs with 2 and 3 rows, at T = 1 for a model that loops over its steps; `loop` are then runs
    with T = 3 and 4. Raises LiftError where a state cannot be followed.
    """
    _check_same_calls(one, other)
    found = loop_state.find(one, *loop) if loop else Loop(frozenset(), None)
    changed = [leaf for leaf in arguments.states if leaf.state is not None and not leaf.state.unchanged]
    named = [_argument_state(leaf, one) for leaf in changed]
    by_argument = {leaf.state.site.path for leaf in changed if leaf.state}
    in_loop = _called_each_step(one, loop[0]) if found.variables is not None else set()
    skipped = found.restarting | by_argument | in_loop
    named += _site_states(arguments, one, other, not_carried, skipped)
    named += [_loop_state(v, one, other) for v in _not_from_arguments(found.variables or (), changed, one)]
    if not named:
        raise LiftError(
            f"{one.calls[0].site.path}: begins with a state that is computed from the input, as does every recurrent call: there is "
            "nothing that a stream could carry; let the input enter at every step, or pass the state as an argument of forward"
        )
    carried = {item.site for item in named}
    output = next((call.site for call in reversed(one.calls) if call.site in carried), one.calls[-1].site)
    return _with_names(named), output


def _check_same_calls(one: Observation, other: Observation) -> None:
    if len(one.calls) != len(other.calls):
        raise LiftError(
            f"the model called {one.calls[0].site.path} {len(one.calls)} times on one input and {len(other.calls)} on another: a graph "
            "has one way"
        )


def _called_each_step(one: Observation, three: Observation) -> set[str]:
    """Return the paths of the modules that are called more often for more steps."""
    counts = [[call.site.path for call in observation.calls] for observation in (one, three)]
    return {path for path in counts[1] if counts[1].count(path) > counts[0].count(path)}


def _site_states(
    arguments: Arguments, one: Observation, other: Observation, not_carried: AbstractSet[Site], skipped: AbstractSet[str]
) -> list[Named]:
    """Return the calls that begin with a constant state, or with one that is an argument as it is."""
    found = []
    computed = _computed_from_input(arguments, one)
    for a, b in zip(one.calls, other.calls, strict=True):
        initial = probe.constant_state(a, b)
        if a.site.path in skipped or initial is None:
            continue
        if computed & {id(part) for part in a.given or ()}:
            raise LiftError(
                f"{a.site.path}: begins with a state that is computed from the input, though it is the same for every input tried; "
                "begin with zeros or a parameter, or pass the state as an argument of forward"
            )
        found.append(_site_state(a, initial, arguments))
    return [item for item in found if item.site not in not_carried] or found


def _computed_from_input(arguments: Arguments, one: Observation) -> set[int]:
    """Return the ids of the tensors whose values depend on an argument that is not a state."""
    leaves = [leaf for leaf in arguments.leaves if leaf.role in ("x", "series", "static", "lengths")]
    values = probe.flat(one.given)
    seeds = {id(values[leaf.position]): leaf.position for leaf in leaves}
    return {key for key, labels in Origins(one.flow.events).sources(seeds).items() if labels}


def _site_state(call: Call, initial: tuple[Tensor, ...], arguments: Arguments) -> Named:
    entries = tuple(StateEntry("", *part.shape) for part in initial)
    leaves = tuple((leaf.position, leaf.state.part) for leaf in arguments.states if leaf.state and leaf.state.site == call.site)
    return Named(SiteState(call.site, call.is_cell, entries, initial, leaves), call.site, call.names)


def _argument_state(leaf: Leaf, one: Observation) -> Named:
    assert leaf.state is not None
    shape = BatchShape(tuple(leaf.value.shape), leaf.state.axis)
    initial = torch.zeros(shape.rows, shape.size)
    calls = [call for call in one.calls if call.site.path == leaf.state.site.path]
    final = None if leaf.state.returned is not None else (calls[-1].site, leaf.state.part)
    entry = StateEntry("", shape.rows, shape.size)
    return Named(
        ArgumentState(leaf.position, shape, leaf.state.returned, final, (entry,), (initial,)), leaf.state.site, ("hc"[leaf.state.part],)
    )


def _not_from_arguments(variables: Sequence[Variable], changed: Sequence[Leaf], one: Observation) -> list[Variable]:
    """Return the variables of the loop that do not begin with an argument: the model takes and returns those itself."""
    values = probe.flat(one.given)
    reached = Origins(one.flow.events).sources({id(values[leaf.position]): leaf.position for leaf in changed})
    return [v for v in variables if not any(reached.get(id(value)) for value in v.initial if value is not None)]


def _loop_state(variable: Variable, one: Observation, other: Observation) -> Named:
    """Raises LiftError for a variable without a batch axis, or that begins with what is computed from the input."""
    name = variable.path or "the loop over time"
    event = next((e for e in other.flow.events if e.key == variable.key), None)
    if event is None:
        raise LiftError(f"{name}: the steps are not alike for one input and another: {loop_state.REMEDY}")
    value, wider = variable.value, event.outputs[variable.output]
    axes = [i for i, sizes in enumerate(zip(value.shape, wider.shape, strict=False)) if sizes == (2, 3)]
    if value.dim() != wider.dim() or len(axes) != 1 or not value.is_floating_point():
        raise LiftError(
            f"{name}: carries {list(value.shape)} {value.dtype} from step to step, which is not a number for each row: {loop_state.REMEDY}"
        )
    shape = BatchShape(tuple(value.shape), axes[0])
    initial = _constant_rows(variable, other, shape)
    if initial is None:
        raise LiftError(
            f"{name}: what the loop carries begins with a value that is computed from the input: begin with zeros or a parameter"
        )
    site = next((call.site for call in one.calls if call.site.path == variable.path), one.calls[-1].site)
    entry = StateEntry("", shape.rows, shape.size)
    carrier = LoopState(variable.places, variable.key, variable.output, shape, (entry,), (initial,))
    return Named(carrier, site, (variable.label,))


def _constant_rows(variable: Variable, other: Observation, shape: BatchShape) -> Tensor | None:
    """Return `[rows, size]`, what the variable is before the first step, if it is the same at all places, in all rows, for two inputs."""
    by_key = {event.key: event for event in other.flow.events}
    values = loop_state.initial_values(variable)
    if any(place.key not in by_key for place in variable.places):
        return None
    others = [by_key[place.key].inputs.get(place.position) for place in variable.places]
    wide = tuple(3 if axis == shape.axis else size for axis, size in enumerate(shape.shape))
    values = [value.expand(shape.shape) for value in values] + [torch.zeros(wide) if o is None else o.expand(wide) for o in others]
    rows = [row for value in values for row in shape.to_graph(value).unbind(1)]
    return rows[0].clone() if all(torch.equal(row, rows[0]) for row in rows) else None


def _with_names(named: Sequence[Named]) -> tuple[Carrier, ...]:
    """Name the state tensors: `h`, `c` for one module; with the module's path before them for several."""
    alone = len({item.site for item in named}) == 1
    prefixes = ["" if alone else _prefix(item.site) for item in named]
    names = [f"{prefix}{label}" for prefix, item in zip(prefixes, named, strict=True) for label in item.labels]
    agree = [n[:-2] for n in sorted(f"{n}_0" for n in names)] == [n[:-2] for n in sorted(f"{n}_n" for n in names)]
    if not agree or len(set(names)) != len(names):
        prefixes = [f"s{i:02}_" for i in range(len(named))]
    return tuple(_renamed(item, prefix) for item, prefix in zip(named, prefixes, strict=True))


def _prefix(site: Site) -> str:
    return site.path.replace(".", "_") + (f"_call{site.call + 1}_" if site.call else "_")


def _renamed(item: Named, prefix: str) -> Carrier:
    entries = tuple(replace(entry, name=f"{prefix}{label}") for entry, label in zip(item.carrier.entries, item.labels, strict=True))
    carrier: Carrier = replace(item.carrier, entries=entries)
    return carrier
