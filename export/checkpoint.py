"""A checkpoint folder: `model.json` (the card: what the model is for) and `weights.safetensors` (what it learned).

The weights are read as safetensors, which can hold no code. The factory named by the card is Python and runs: build only what you trust.
"""

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from export.errors import CheckpointError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TASKS = ("forecast", "regress", "classify")


@dataclass(frozen=True)
class Card:
    """What a person says of a model. `features` for numeric inputs, or `tokens` (the vocabulary's size) for token ids."""

    name: str
    version: str
    factory: str  # path/to/file.py:function_or_class
    task: str
    outputs: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    tokens: int = 0
    feedback: Mapping[str, str] = field(default_factory=dict)
    frequency: str = ""
    description: str = ""
    example: tuple[Any, ...] = ()  # one window as `inputs` would have it; what parity is measured on
    preprocessing: Mapping[str, Any] = field(default_factory=dict)  # how a client makes its inputs
    attribution: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise CheckpointError(f"name: expected 1 to 64 of the characters A-Z a-z 0-9 _ . -, got {self.name!r}")
        if not re.fullmatch(r"\d+(\.\d+)*", self.version):
            raise CheckpointError(f'version: expected numbers such as "1.0", got {self.version!r}')
        if self.task not in TASKS:
            raise CheckpointError(f"task: expected one of {', '.join(TASKS)}, got {self.task!r}")
        if bool(self.features) == bool(self.tokens):
            raise CheckpointError("features, tokens: name the features of numeric inputs, or the number of token ids; one of the two")
        for output, feature in self.feedback.items():
            if output not in self.outputs or feature not in self.features:
                raise CheckpointError(f"feedback: {output!r} -> {feature!r} is not an output and a feature of this model")

    @classmethod
    def read(cls, folder: Path) -> "Card":
        try:
            document = orjson.loads((folder / "model.json").read_bytes())
            for name in ("features", "outputs", "example"):
                document[name] = tuple(document.get(name, ()))
            return cls(**document)
        except (OSError, ValueError, TypeError) as e:
            raise CheckpointError(f"{folder / 'model.json'}: {e}") from e

    def sample(self) -> Tensor:
        """The example window as the model takes it: `[1, T, F]` float32 or `[1, T]` int64."""
        if self.example:
            return torch.tensor([self.example], dtype=torch.int64 if self.tokens else torch.float32)
        return torch.randint(self.tokens, (1, 16)) if self.tokens else torch.randn(1, 16, len(self.features))


def load(folder: Path) -> tuple[nn.Module, Card]:
    """The model with its weights, and its card. Raises CheckpointError."""
    card = Card.read(folder)
    weights = folder / "weights.safetensors"
    try:
        model = factory(card.factory)(**card.arguments)
        model.load_state_dict(load_file(weights))
    except CheckpointError:
        raise
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{weights}: {e}") from e
    except Exception as e:  # a factory is the user's code: whatever it raises is its message
        raise CheckpointError(f"{card.factory}: {type(e).__name__}: {e}") from e
    return model.eval(), card


def factory(reference: str) -> Callable[..., nn.Module]:
    """`path/to/file.py:name` -> what the file calls so. Raises CheckpointError."""
    path, _, name = reference.partition(":")
    if not name or not Path(path).is_file():
        raise CheckpointError(f"factory: expected an existing path/to/file.py:name, got {reference!r}")
    spec = importlib.util.spec_from_file_location(f"cellstate_factory_{Path(path).stem}", path)
    assert spec is not None  # a .py file has both
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise CheckpointError(f"factory: {path} defines no {name!r} that can be called")
    made: Callable[..., nn.Module] = getattr(module, name)
    return made
