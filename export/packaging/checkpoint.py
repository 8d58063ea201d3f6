"""Load a trained model: its factory, its weights and an example of its input, from a checkpoint folder or from three files.

Weights are read as safetensors, or by torch with `weights_only=True`: neither can run code. The factory is Python and is run, so build
only models that you trust.
"""

import importlib.util
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from export.errors import CheckpointError, LiftError
from export.lift import probe
from export.lift.checks import check_quantized
from export.lift.convention import parameters
from export.packaging.model_spec import ModelSpec
from export.scaling import Scaled

Weights = Mapping[str, Tensor]
NAMED = 5  # tensors named in a message
# Tensors that training frameworks save beside a model's own: torchmetrics in a LightningModule, losses with class weights, averaged copies.
FRAMEWORK_TENSORS = re.compile(
    r"(^|\.)(n_averaged|num_batches_tracked)$|^(train_|val_|valid_|test_)?(metrics?|loss|loss_fn|criterion)(\.|$)|^(ema_model|model_ema)\."
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model, its specification, and the arguments of its forward: in order, or by name."""

    model: nn.Module
    spec: ModelSpec
    example: tuple[Tensor, ...] | Mapping[str, Tensor]


def load(folder: Path) -> Checkpoint:
    """Load a folder with `model.json` and `weights.safetensors`. Raises CheckpointError."""
    spec = ModelSpec.read(folder)
    return Checkpoint(build_model(spec, folder / "weights.safetensors"), spec, (_example(spec),))


def _example(spec: ModelSpec) -> Tensor:
    """Return the specification's example `[1, T, …]`; without one, 16 steps of standard normal numbers or of random token ids."""
    if spec.example:
        return torch.tensor([spec.example], dtype=torch.int64 if spec.tokens else torch.float32)
    generator = torch.Generator().manual_seed(0)
    if spec.tokens:
        return torch.randint(spec.tokens, (1, 16), generator=generator)
    if not spec.features:
        raise CheckpointError("model.json: name the features or the number of tokens, or give an example")
    return torch.randn(1, 16, len(spec.features), generator=generator)


def build_model(spec: ModelSpec, weights: Path) -> nn.Module:
    """Call the factory, load the weights into the module, put its scaler around it, and return it in evaluation mode.

    Raises CheckpointError.
    """
    try:
        model = load_factory(spec.factory)(**spec.arguments)
    except CheckpointError:
        raise
    except Exception as e:  # a factory is the user's code and may raise anything
        raise CheckpointError(f"{spec.factory} raised {type(e).__name__}: {e}") from e
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{spec.factory} returned {type(model).__name__}, expected a torch.nn.Module")
    model = cast(nn.Module, getattr(model, "_orig_mod", model))  # as it was before torch.compile
    check_quantized(model)  # its state dict holds more than tensors
    _load_weights(model, read_weights(weights), weights)
    return (Scaled(model, spec.scaler) if spec.scaler else model).eval()


def _load_weights(model: nn.Module, state: Weights, source: Path) -> None:
    """Load `state` into `model`, dropping the prefix that a training framework puts before every name. Raises CheckpointError."""
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}  # torch.compile wraps modules under this name
    expected = set(model.state_dict())
    prefix = _common_prefix(expected, state)
    missing = sorted(name for name in expected if prefix + name not in state)
    if missing:
        raise CheckpointError(f"{source}: {len(missing)} of the model's {len(expected)} tensors are missing: {_first(missing)}")
    unused = sorted(name for name in state if name.removeprefix(prefix) not in expected or not name.startswith(prefix))
    unknown = [name for name in unused if not FRAMEWORK_TENSORS.search(name.removeprefix(prefix))]
    if unknown:
        raise CheckpointError(
            f"{source}: {len(unknown)} tensors have no place in the model: {_first(unknown)}; build the model with the sizes it was "
            "trained with, or remove these tensors from the file"
        )
    _check_shapes(model, {name: state[prefix + name] for name in expected}, source)
    model.load_state_dict({name: state[prefix + name] for name in expected})


def _common_prefix(expected: set[str], state: Weights) -> str:
    """Return the prefix, such as `model.`, under which `state` holds most of the `expected` names."""
    found = {name[: -len(wanted)] for name in state for wanted in expected if name.endswith(f".{wanted}")}
    prefixes = {"", *found}
    return max(sorted(prefixes), key=lambda prefix: sum(prefix + name in state for name in expected))


def _check_shapes(model: nn.Module, state: Weights, source: Path) -> None:
    differing = [name for name, value in model.state_dict().items() if value.shape != state[name].shape]
    if differing:
        name = differing[0]
        found, expected = list(state[name].shape), list(model.state_dict()[name].shape)
        others = f", and {len(differing) - 1} more tensors differ" if len(differing) > 1 else ""
        raise CheckpointError(
            f"{source}: {name} is {found}, the model expects {expected}{others}; build the model with the sizes it was trained with"
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def read_weights(path: Path) -> Weights:
    """Read a `.safetensors` file, or a state dict or Lightning checkpoint that torch saved. Raises CheckpointError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of old pickle protocols; a file that it cannot read raises
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as e:
        raise CheckpointError(f"{path}: it holds Python objects beside weights, which would run as code: save model.state_dict()") from e
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as e:
        raise CheckpointError(f"{path}: {e}") from e
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict (names to tensors): save model.state_dict()")
    return state


def read_example(path: Path, tokens: int, model: nn.Module) -> tuple[Tensor, ...] | Mapping[str, Tensor]:
    """Read `.npy` (x alone) or `.npz` (forward's arguments: by name if all names are its, else in order). Raises CheckpointError.

    A single window `[T, F]` or `[T]` gets a batch axis, unless the model takes it only as it is, as a batch of series `[B, T]`.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        names = list(loaded.files) if isinstance(loaded, np.lib.npyio.NpzFile) else []
        arrays = [loaded[name] for name in names] if names else [loaded]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise CheckpointError(f"{path}: not a .npy or .npz array without pickled objects: {e}") from e
    if not arrays or any(array.dtype.kind not in "fiub" for array in arrays):
        raise CheckpointError(f"{path}: expected numbers, got {', '.join(str(a.dtype) for a in arrays) if arrays else 'no array'}")
    if not tokens:
        _check_exact(arrays[0], path)
    first = torch.from_numpy(arrays[0]).to(torch.int64 if tokens else torch.float32)
    if len(arrays) == 1 and first.dim() == (1 if tokens else 2) and not (_runs(model, first) and not _runs(model, first[None])):
        first = first[None]
    values = (first, *(torch.from_numpy(a).float() if a.dtype.kind == "f" else torch.from_numpy(a) for a in arrays[1:]))
    return dict(zip(names, values, strict=True)) if names and set(names) <= set(parameters(model)) else values


def _runs(model: nn.Module, x: Tensor) -> bool:
    """Return whether the model takes x alone."""
    try:
        probe.run(model, ((x,), {}), "the example")
    except LiftError:
        return False
    return True


def _check_exact(array: np.ndarray[Any, Any], path: Path | str) -> None:
    """Raise CheckpointError for integers beyond 2^24, which float32 rounds."""
    values = array.astype(np.float64)
    rounded = (values == np.round(values)) & (values != array.astype(np.float32))
    if rounded.any():
        raise CheckpointError(
            f"{path}: holds {values[rounded].flat[0]:.0f}: integers beyond 2^24 are not exact in float32, in which inputs are sent; number "
            "ids from 0, count times from a recent date, and scale amounts"
        )


def load_factory(reference: str) -> Callable[..., Any]:
    """Import `path/to/file.py:name` and return what the file calls `name`. Raises CheckpointError."""
    path, _, name = reference.rpartition(":")
    if not path or not Path(path).is_file():
        raise CheckpointError(f"factory: expected an existing path/to/file.py:name, got {reference!r}")
    source = importlib.util.spec_from_file_location(f"cellstate_factory_{Path(path).stem}", path)
    if source is None or source.loader is None:
        raise CheckpointError(f"factory: {path} is not a Python file")
    module = importlib.util.module_from_spec(source)
    try:
        source.loader.exec_module(module)
    except Exception as e:  # the file is the user's code and may raise anything
        raise CheckpointError(f"factory: {path} raised {type(e).__name__} while it was imported: {e}") from e
    found = getattr(module, name, None)
    if not callable(found):
        raise CheckpointError(f"factory: {path} defines no {name!r} that can be called")
    return found  # type: ignore[no-any-return]
