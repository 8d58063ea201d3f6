"""Find what each argument of forward is: x, its axes, and the role of every other argument, by running the model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from export.errors import LiftError
from export.lift import arguments
from export.lift.arguments import Arguments, StateLink
from export.lift.convention import Given, given_from_example, leaf_names
from export.lift.dataflow import Origins
from export.lift.lengths import find_lengths
from export.lift.probe import Observation, observe, tensors
from export.lift.recorder import Call


def infer_arguments(model: nn.Module, example: Any, axes: str = "", x: str = "") -> Arguments:
    """Find which argument is x, where its batch and time are, and the role of every other argument. Raises LiftError.

    `axes`, one of BTF, TBF and BFT, and `x`, the name of an argument, are given where that is ambiguous.
    """
    given = given_from_example(model, example)
    values, spec = tree_flatten(given)
    values = [value.clone() if isinstance(value, Tensor) else value for value in values]  # one tensor may stand for h and for c
    tensors_at = arguments.tensor_positions(values)
    names = leaf_names(model, given)
    candidates = [i for i in tensors_at if (names[i] == x if x else values[i].dim() > 1)]
    if not candidates:
        raise LiftError(_no_x(names, values, tensors_at, x))
    base = _first_run(model, tree_unflatten(values, spec))
    _check_batched(base.calls)
    best: list[Arguments] = []
    most = 1
    unclear = LiftError(_no_batch(base.calls, values, values[candidates[0]]))
    for position in candidates:
        scored: dict[int, list[Arguments]] = {}
        for found, error in _ways(model, values, spec, position, axes, base):
            unclear = error or unclear
            score = _score(model, found, base) if found else 0
            if found and score == 3:
                return found
            if found and score:
                scored.setdefault(score, []).append(found)
        if scored and (not best or max(scored) > most):
            most = max(scored)
            best = scored[most]
    if len({found.axes for found in best}) > 1:
        raise LiftError(
            f"x is {list(values[candidates[0]].shape)}, and which axis is time is not clear: give an example in which these sizes differ, "
            "or say --axes BTF (batch, time, features), TBF or BFT"
        )
    if best:
        return best[0]
    raise unclear


def _ways(
    model: nn.Module, values: Sequence[Any], spec: Any, position: int, axes: str, base: Observation
) -> Iterator[tuple[Arguments | None, LiftError | None]]:
    """Yield ways to read the arguments with x at `position`: each order of axes, and [B, T] beside x as a series and as static."""
    states = _states(base, values, position)
    others = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.dim() == 2 and v.is_floating_point() and i != position]
    for name, order in arguments.AXES.items():
        if (axes and name != axes) or (order.time == 2 and values[position].dim() != 3):
            continue
        lengths = find_lengths(model, values, spec, position, order, base.packed)
        for static in [(), *([tuple(i for i in others if i not in states)] if others else [])]:
            try:
                yield arguments.assign_roles(values, spec, position, order, states, lengths, static), None
            except LiftError as e:
                yield None, e


def _score(model: nn.Module, found: Arguments, base: Observation) -> int:
    """Return how well the model follows this reading of its arguments, and 0 if its calls do not follow the batch.

    3: calls follow time as well. 2: the model takes other lengths, and makes them one by cutting or padding. 1: it takes one length only,
    and calls run over it.
    """
    if not _follows(model, found, base.calls, found.batch):
        return 0
    paths = [call.site.path for call in base.calls]
    runs_over = {call.steps for call in base.calls if not call.is_cell} | {paths.count(path) for path in paths}
    try:
        longer = observe(model, found.resized(found.batch, found.steps + 3)).calls
    except LiftError:
        return int(found.steps in runs_over)
    changed = len(longer) != len(base.calls) or any(a.steps != b.steps for a, b in zip(base.calls, longer, strict=True))
    return 3 if changed else 2


def _no_x(names: Sequence[str], values: Sequence[Any], tensors_at: Sequence[int], x: str) -> str:
    """Return the message for an example in which no tensor can be x."""
    if x:
        return f"--x {x}: forward has no tensor of that name; it takes {', '.join(names[i] for i in tensors_at)}"
    return (
        f"x is {list(values[tensors_at[0]].shape)}: expected a batch, [B, T, F] or [B, T]; for a model without a batch axis, wrap it in "
        "one that takes [B, T, …] and gives its LSTM [B, T, F] (batch_first=True) or [T, B, F]"
    )


def _states(base: Observation, values: Sequence[Any], first: int) -> dict[int, StateLink]:
    """Find the leaves that are states: a recurrent call begins with them, as they are or changed and then returned as the next state.

    One of another shape than the call's state, such as `[B, L, H]` or h and c in one tensor, is a state if the example has zeros for it.
    """
    origins = Origins(base.flow.events)
    leaves = {i: v for i, v in enumerate(values) if i != first and isinstance(v, Tensor) and v.is_floating_point() and v.dim() > 1}
    reached = origins.sources({id(value): position for position, value in leaves.items()})
    found: dict[int, StateLink] = {}
    for position, value in leaves.items():
        given = [(call, k, part) for call in base.calls for k, part in enumerate(call.given or ())]
        exact = next(((call, k) for call, k, part in given if origins.root(part) is value), None)
        similar = next(
            ((c, k) for c, k, part in given if part.shape[-2:] == value.shape[-2:] and position in reached.get(id(part), ())), None
        )
        other = next(((c, k) for c, k, part in given if position in reached.get(id(part), ()) and not value.any()), None)
        link = exact or similar or other
        if link is None or link[0].rows not in value.shape:
            continue
        call, part = link
        returned = _next_state(base, origins, position, value, call, part, found)
        # [B, H] that is changed and not returned may be a static input
        if exact is not None or returned is not None or (similar is not None and value.dim() > 2):
            axis = value.dim() - 2 if value.shape[-2] == call.rows else list(value.shape).index(call.rows)
            found[position] = StateLink(call.site, part, exact is not None and returned is None, returned, axis)
    return found


def _next_state(
    base: Observation, origins: Origins, position: int, value: Tensor, call: Call, part: int, taken: Mapping[int, StateLink]
) -> int | None:
    """Return which output is the next state of the argument `value`, or None if no output is, or if it is the call's final state."""
    finals = {id(c.final[part]) for c in base.calls if c.site.path == call.site.path}
    every = {id(t) for c in base.calls for t in (c.output, *c.final)}
    reached = origins.sources(dict.fromkeys(finals, "final") | {id(value): position})
    others = {link.returned for link in taken.values()}
    candidates = []
    for index, output in list(enumerate(base.outputs))[1:]:  # the first is y
        if output.shape != value.shape or index in others:
            continue
        if id(origins.root(output)) in finals:
            return index if not any(origins.root(given) is value for given in call.given or ()) else None
        if id(origins.root(output)) not in every and "final" in reached.get(id(output), ()):
            candidates.append(index)
    return candidates[0] if candidates else None


def _check_batched(calls: Sequence[Call]) -> None:
    if not calls:
        raise LiftError(
            "no nn.LSTM, nn.GRU, nn.RNN or cell was called in the model's forward: there is no state to lift; "
            "write a recurrence of your own with these, and a scripted one as the plain module"
        )
    for call in calls:
        if call.final[0].dim() != (2 if call.is_cell else 3):
            raise LiftError(
                f"{call.site.path}: called without a batch axis, so axis 0 of its input is time: give it [B, T, F] with batch_first=True"
            )


def _follows(model: nn.Module, found: Arguments, calls: Sequence[Call], batch: int) -> bool:
    """Return whether a call over `batch` rows has twice as many when x has."""
    try:
        wider = observe(model, found.resized(2 * batch, found.steps)).calls
    except LiftError:
        return False
    return any((a.rows, b.rows) == (batch, 2 * batch) for a, b in zip(calls, wider, strict=False))


def _first_run(model: nn.Module, given: Given) -> Observation:
    """Run the model on the example. Raises LiftError, also for a state that earlier calls left in the model."""
    kept = {f"{path}.{name}".lstrip("."): value for path, m in model.named_modules() for name, value in vars(m).items() if tensors(value)}
    kept = {name: value for name, value in kept.items() if not name.rpartition(".")[2].startswith("_")}
    remedy = f"the model holds tensors from earlier calls in {', '.join(kept)}: set them to None, or to what a new sequence begins with"
    try:
        base = observe(model, given)
    except LiftError as e:
        raise LiftError(f"{e}; {remedy}" if kept else str(e)) from e
    left = [t for value in kept.values() for t in tensors(value)]
    for call in base.calls:
        if any(part.shape == t.shape and torch.equal(part, t) and bool(t.any()) for part in call.given or () for t in left):
            raise LiftError(f"{call.site.path}: begins with a state that is left from training or earlier calls; {remedy}")
    return base


def _no_batch(calls: Sequence[Call], values: Sequence[Any], x: Tensor) -> str:
    """Return the message for a model in which no axis of x is the batch."""
    call, others = calls[0], [list(v.shape) for v in values if isinstance(v, Tensor) and v is not x]
    rows, batch = call.rows, x.shape[0]
    if not others and rows > batch > 1 and rows % batch == 0:
        return (
            f"{call.site.path}: runs over {rows} rows for {batch} rows of x, and a stream carries one: let each of the {rows // batch} be "
            "a row of x of its own, [B, T, …]"
        )
    if others:
        beside = f", beside which it takes {', '.join(map(str, others))}"
        remedy = "give an example in which B, T and all other sizes differ, or wrap the model in one that takes x alone"
    else:
        beside, remedy = "", "build states and views with x.size(0), and give the recurrent module one row for each row of x"
    return f"{call.site.path}: runs over {call.rows} rows, and no axis of x {list(x.shape)}{beside} changes their number alone: {remedy}"
