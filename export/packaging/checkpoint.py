"""Read a model: its factory, its weights, an example of its input. From a checkpoint folder, or from three files named one by one.

Weights are read as safetensors, or by torch with `weights_only`: neither can run code. The factory is Python and runs: build only what
you trust.
"""

import importlib.util
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from export.errors import CheckpointError
from export.packaging.model_spec import Card

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model, what is said of it, and what its forward takes."""

    model: nn.Module
    card: Card
    example: tuple[Tensor, ...]


def load(folder: Path) -> Checkpoint:
    """A folder with `model.json` and `weights.safetensors`. Raises CheckpointError."""
    card = Card.read(folder)
    return Checkpoint(assemble(card, folder / "weights.safetensors"), card, (_window(card),))


def _window(card: Card) -> Tensor:
    """The card's example; without one, 16 steps of standard normal numbers, or of any token ids."""
    if card.example:
        return torch.tensor([card.example], dtype=torch.int64 if card.tokens else torch.float32)
    generator = torch.Generator().manual_seed(0)
    if card.tokens:
        return torch.randint(card.tokens, (1, 16), generator=generator)
    if not card.features:
        raise CheckpointError("model.json: name the features or the number of tokens, or give an example")
    return torch.randn(1, 16, len(card.features), generator=generator)


def assemble(card: Card, weights: Path) -> nn.Module:
    """Call the factory and load the weights. Raises CheckpointError."""
    state = read_weights(weights)
    try:
        model = factory(card.factory)(**card.arguments)
    except CheckpointError:
        raise
    except Exception as e:  # a factory is the user's code: whatever it raises is its message
        raise CheckpointError(f"{card.factory} raised {type(e).__name__}: {e}") from e
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{card.factory} returned {type(model).__name__}, expected a torch.nn.Module")
    _fill(model, state, weights)
    return model.eval()


def _fill(model: nn.Module, state: Weights, source: Path) -> None:
    """Load, understanding the prefix that a training framework puts before every name."""
    wanted = set(model.state_dict())
    prefixes = {""} | {f"{name.split('.')[0]}." for name in state}
    prefix = max(sorted(prefixes), key=lambda p: sum(p + name in state for name in wanted))
    missing = sorted(name for name in wanted if prefix + name not in state)
    if missing:
        raise CheckpointError(f"{source}: {len(missing)} of the model's {len(wanted)} tensors are missing: {', '.join(missing[:5])}")
    try:
        model.load_state_dict({name: state[prefix + name] for name in wanted})
    except RuntimeError as e:
        raise CheckpointError(f"{source}: {' '.join(str(e).split())}") from e


def read_weights(path: Path) -> Weights:
    """`.safetensors`; else what torch saved, a state dict or a Lightning checkpoint. Raises CheckpointError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read raises
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as e:
        raise CheckpointError(f"{path}: it holds Python objects beside weights, which would run as code: save model.state_dict()") from e
    except (OSError, SafetensorError, RuntimeError, EOFError) as e:
        raise CheckpointError(f"{path}: {e}") from e
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict (names to tensors): save model.state_dict()")
    return state


def read_example(path: Path, tokens: int) -> tuple[Tensor, ...]:
    """`.npy` with x, or `.npz` with forward's arguments in order. A window without a batch axis gets one. Raises CheckpointError."""
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded[name] for name in loaded.files] if isinstance(loaded, np.lib.npyio.NpzFile) else [loaded]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise CheckpointError(f"{path}: not a .npy or .npz array without pickled objects: {e}") from e
    if not arrays or arrays[0].dtype.kind not in "fiu":
        raise CheckpointError(f"{path}: expected numbers, got {arrays[0].dtype if arrays else 'no array'}")
    if len(arrays) == 1 and arrays[0].ndim == (1 if tokens else 2):
        arrays = [arrays[0][None]]
    first = torch.from_numpy(arrays[0]).to(torch.int64 if tokens else torch.float32)
    return first, *(torch.from_numpy(a).float() if a.dtype.kind == "f" else torch.from_numpy(a) for a in arrays[1:])


def factory(reference: str) -> Callable[..., Any]:
    """`path/to/file.py:name` -> what the file calls so. Raises CheckpointError."""
    path, _, name = reference.rpartition(":")
    if not path or not Path(path).is_file():
        raise CheckpointError(f"factory: expected an existing path/to/file.py:name, got {reference!r}")
    spec = importlib.util.spec_from_file_location(f"cellstate_factory_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise CheckpointError(f"factory: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:  # as above
        raise CheckpointError(f"factory: {path} raised {type(e).__name__} while it was imported: {e}") from e
    made = getattr(module, name, None)
    if not callable(made):
        raise CheckpointError(f"factory: {path} defines no {name!r} that can be called")
    return made  # type: ignore[no-any-return]
