"""Run copies of a model and observe it: which axes are batch and time, and which recurrent calls begin with a constant state.

Nothing is read from the model's source or the names of its layers. Every run takes a fresh copy, so a module that keeps `self.hidden`
between calls starts each run anew, and the given model is never changed.
"""

import bisect
import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from export.errors import LiftError
from export.lift.arguments import EXACT, Arguments
from export.lift.convention import Given, call_forward
from export.lift.dataflow import EQUALITIES, Dataflow, Origins
from export.lift.recorder import Call, CallRecorder
from export.lift.sampling import Sampler
from export.user_code import at_user_line


@dataclass(frozen=True, eq=False)
class Observation:
    """One forward pass: its outputs, its recurrent calls, and which tensor was computed from which."""

    given: Given  # forward's arguments
    outputs: list[Tensor]
    calls: list[Call]
    packed: list[list[int]]  # lengths that sequences were packed by
    flow: Dataflow


def observe(model: nn.Module, given: Given) -> Observation:
    """Run a copy of the model once on forward's arguments. Raises LiftError with the user's line when the model raises."""
    fresh = fresh_copy(model)
    recorder, flow = CallRecorder(fresh), Dataflow()
    with _failures("the example"), recorder.recording(flow=flow):
        result = call_forward(fresh, given)
    return Observation(given, tensors(result), recorder.calls, [torch.as_tensor(n).flatten().tolist() for n in recorder.packed], flow)


def run(model: nn.Module, given: Given, what: str) -> Any:
    """Run a copy of the model, unobserved, and return what it returns. Raises LiftError; `what` says of what the arguments are made."""
    with _failures(what):
        return call_forward(fresh_copy(model), given)


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn what a user's forward raises into LiftError."""
    try:
        with torch.no_grad():
            yield
    except LiftError:
        raise
    except Exception as e:
        reason = " ".join(str(e).split())[:300]
        raise LiftError(
            f"the model fails on {what}: {type(e).__name__}: {reason}{at_user_line(e)}; check the example's shape and dtype"
        ) from e


def fresh_copy(model: nn.Module) -> nn.Module:
    """Copy the model in evaluation mode. Tensors that are still attached to an autograd graph are copied by value. Raises LiftError."""
    attached = [t for module in model.modules() for t in tensors(vars(module)) if t.grad_fn is not None]
    try:
        fresh = _without_compiled(copy.deepcopy(model, {id(t): t.detach().clone() for t in attached})).eval()
    except Exception as e:
        raise LiftError(f"the model cannot be copied: {type(e).__name__}: {e}; build it anew from its factory and load the weights") from e
    for weight in fresh.parameters():
        if weight.is_leaf:
            weight.requires_grad_(False)
    return fresh


def _without_compiled(model: nn.Module) -> nn.Module:
    """Put the modules that torch.compile wrapped in the place of their wrappers."""
    model = getattr(model, "_orig_mod", model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if hasattr(child, "_orig_mod"):
                setattr(parent, name, child._orig_mod)
    return model


def tensors(result: Any) -> list[Tensor]:
    """Return the tensors in a nest of tuples, lists, dictionaries and dataclasses, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for value in result.values() for t in tensors(value)]
    if isinstance(result, tuple | list):
        return [t for value in result for t in tensors(value)]
    if dataclasses.is_dataclass(result):
        return [t for field in dataclasses.fields(result) for t in tensors(getattr(result, field.name))]
    return []


def flat(given: Any) -> list[Any]:
    """Return the leaves of forward's arguments, in order."""
    leaves: list[Any] = tree_flatten(given)[0]
    return leaves


def make_sampler(model: nn.Module, arguments: Arguments, vocabulary: int = 0) -> Sampler:
    """Return a sampler of inputs like the example, with the ids that the model's embeddings know. Raises LiftError.

    `vocabulary` is the number of token ids that users may send; 0 for those that the embedding has.
    """
    window = arguments.window()
    seen = observe(model, arguments.from_graph(window))
    ids = _ids(seen, arguments, window)
    if arguments.tokens:
        known = ids.get(0, 0)
        if vocabulary and known and vocabulary > known:
            _check_highest_id(model, arguments, vocabulary, known)
        ids = {0: vocabulary or known} if vocabulary or known else {}
    numbers = {number for event in seen.flow.events for number in event.compared}
    paddings = {m.padding_idx for m in model.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    special = paddings | {int(n) for n in numbers if n == int(n) and 0 <= n < max([*ids.values(), 1])} | {0}
    equal = {number for event in seen.flow.events if event.name in EQUALITIES for number in event.compared}
    integers = _integers(seen, arguments)
    ranges = {} if arguments.tokens else _ranges(model, arguments, window, integers, ids)
    padding = tuple(sorted(equal | {0.0}))
    return Sampler(window, arguments.static_width, ids, ranges, integers, tuple(sorted(special)), tuple(sorted(numbers)), padding)


def _ranges(
    model: nn.Module, arguments: Arguments, window: Tensor, integers: Sequence[bool], ids: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """Return the least and the most that the model takes in columns of integers which index a table after some arithmetic."""
    found = {}
    for column in [c for c, flag in enumerate(integers) if flag and c not in ids]:
        values = window[..., column]
        if not bool((values == values.round()).all()):
            continue

        def takes(value: int, column: int = column) -> bool:
            x = window.clone()
            x[..., column] = value
            try:
                observe(model, arguments.from_graph(x))
            except LiftError:
                return False
            return True

        least, most = int(values.min()), int(values.max())
        if takes(least) and takes(most) and not (takes(-EXACT) and takes(EXACT)):
            lower = bisect.bisect_left(range(-EXACT, least), True, key=takes) - EXACT
            upper = most + bisect.bisect_left(range(most + 1, EXACT + 1), True, key=lambda n: not takes(n))
            found[column] = (lower, upper)
    return found


def _check_highest_id(model: nn.Module, arguments: Arguments, vocabulary: int, known: int) -> None:
    """Raise LiftError if the model does not take the highest id: one whose embedding is smaller may map rare ids to one row."""
    try:
        observe(model, arguments.from_graph(torch.full_like(arguments.window(), vocabulary - 1)))
    except LiftError as e:
        raise LiftError(
            f"tokens: {vocabulary} ids, and the model's embedding has {known} rows: give the number that it was trained with"
        ) from e


def _ids(seen: Observation, arguments: Arguments, window: Tensor) -> dict[int, int]:
    """Return, by column, the rows of the embedding that a column indexes; the smallest where there are several."""
    columns = window.reshape(*window.shape[:2], -1)
    found: dict[int, int] = {}
    for event in seen.flow.events:
        index = event.inputs.get(0)
        if event.name != "embedding" or index is None or 1 not in event.inputs:
            continue
        count = event.inputs[1].shape[0]
        for column in range(columns.shape[-1]):
            values = columns[..., column]
            shapes = (values, values.transpose(0, 1), values[:, -1], values[:, :1])
            whole = (
                index.dim() == 3
                and index.shape[:2] == values.shape
                and any(bool((index[..., k] == values).all()) for k in range(index.shape[2]))
            )
            if whole or any(index.numel() == v.numel() and bool((index.flatten() == v.flatten()).all()) for v in shapes):
                found[column] = min(count, found.get(column, count))
    return found


def _integers(seen: Observation, arguments: Arguments) -> tuple[bool, ...]:
    """Return which columns the model may take for ids: arguments of integers, and numbers that it converts to integers."""
    values = flat(seen.given)
    reached = Origins(seen.flow.events).sources({id(values[leaf.position]): leaf.position for leaf in arguments.riding})
    converted: set[int] = set()
    for event in seen.flow.events:
        if any(not t.is_floating_point() and t.dtype != torch.bool for t in event.outputs):
            converted |= {label for t in event.inputs.values() if t.is_floating_point() for label in reached.get(id(t), ())}
    columns = [[not leaf.value.is_floating_point() or leaf.position in converted] * leaf.width for leaf in arguments.riding]
    return tuple(flag for flags in columns for flag in flags)


def constant_state(first: Call, second: Call) -> tuple[Tensor, ...] | None:
    """Return a site's initial state, `[rows, size]` each, if two runs on different inputs begin with the same; zeros if none is given.

    Return None if the state depends on the input: the model then computes it in every pass, and no stream carries it.
    """
    if first.given is None or second.given is None:
        return tuple(torch.zeros_like(rows(part, 0, first.is_cell)) for part in first.final)
    pairs = list(zip(first.given, second.given, strict=True))
    same = all(torch.equal(rows(a, 0, first.is_cell), rows(b, i, first.is_cell)) for a, b in pairs for i in range(second.rows))
    return tuple(rows(a, 0, first.is_cell) for a, _ in pairs) if same else None


def rows(part: Tensor, b: int, is_cell: bool) -> Tensor:
    """Return row `b` of a state tensor: `[L*D, size]`, or `[1, size]` for a cell."""
    return part[b : b + 1] if is_cell else part[:, b]
