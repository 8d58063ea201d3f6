"""How forward is called: which arguments by position, which by name."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.utils._pytree import MappingKey, SequenceKey, tree_flatten_with_path

Given = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of forward


def given_from_example(model: nn.Module, example: Any) -> Given:
    """Return forward's arguments for an example: one argument, a tuple of them, or a dictionary by name.

    Arguments of a tuple beyond the positional ones are those that forward takes by keyword only. A dictionary whose keys are not names of
    arguments is one argument.
    """
    known = parameters(model)
    if isinstance(example, Mapping):
        return ((), dict(example)) if known and set(example) <= set(known) else ((example,), {})
    values = tuple(example) if isinstance(example, tuple | list) else (example,)
    by_keyword = [p.name for p in known.values() if p.kind is p.KEYWORD_ONLY]
    positional = [p for p in known.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if by_keyword and len(values) > len(positional):
        return values[: len(positional)], dict(zip(by_keyword, values[len(positional) :], strict=False))
    return values, {}


def parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """Return the parameters of forward by name; none for compiled code, which does not tell them."""
    try:
        return dict(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return {}


def call_forward(module: Any, given: Given) -> Any:
    """Call a module with forward's arguments."""
    args, kwargs = given
    return module(*args, **kwargs)


def leaf_names(model: nn.Module, given: Given) -> list[str]:
    """Return a name for each leaf: the key in a dictionary, or the name of forward's argument."""
    positional = list(parameters(model))
    return [_name(path, positional) for path, _ in tree_flatten_with_path(given)[0]]


def _name(path: tuple[Any, ...], positional: list[str]) -> str:
    keys = [str(key.key) for key in path if isinstance(key, MappingKey)]
    if keys:
        return keys[-1]
    index = path[1].idx if len(path) > 1 and isinstance(path[1], SequenceKey) else 0
    return positional[index] if index < len(positional) else str(index)
