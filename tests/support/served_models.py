"""The models under test, each small enough to export in a second, with its answers from eager PyTorch.

The reference is the plain module: its own `lstm` is called with a state carried by hand. It knows nothing of archives, handlers or HTTP.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import export.models

TOLERANCE = 2e-5  # scaled, as the exporter allows it: float32 sums in another order
FEATURES, MEAN, STD = ("v", "a", "b"), (50.0, 0.0, 1.0), (20.0, 1.0, 2.0)
VOCABULARY, CLASSES = 20, ("low", "mid", "high")
VERSION = "1.0"

Json = Any


@dataclass(frozen=True)
class Reference:
    """What eager PyTorch says of one sequence."""

    y: np.ndarray  # [T, O]: the prediction after each step
    output: np.ndarray  # [T, D*P]
    h_n: np.ndarray  # [L*D, P]
    c_n: np.ndarray  # [L*D, H]

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """h_n `[L*D, 1, P]` and c_n `[L*D, 1, H]`, to carry on from."""
        return torch.from_numpy(self.h_n)[:, None], torch.from_numpy(self.c_n)[:, None]


@dataclass(frozen=True)
class Model:
    """One trained module and the card it is exported with."""

    card: Mapping[str, Any]
    module: nn.Module

    @property
    def name(self) -> str:
        return str(self.card["name"])

    @property
    def tokens(self) -> bool:
        return "tokens" in self.card

    @property
    def features(self) -> int:
        return len(self.card["features"])

    def inputs(self, steps: int, seed: int) -> list[Json]:
        """A sequence as `inputs` has it: `[T, F]` numbers in the data's units, or `[T]` token ids."""
        rng = np.random.default_rng(seed)
        if self.tokens:
            return rng.integers(VOCABULARY, size=steps).tolist()
        values = rng.normal(MEAN, STD, size=(steps, len(MEAN)))
        return values.round(3).tolist()

    def run(self, inputs: Sequence[Json], state: tuple[Tensor, Tensor] | None = None) -> Reference:
        """The whole sequence through the module's LSTM and head, from `state` or from zero."""
        x = torch.tensor([inputs], dtype=torch.int64 if self.tokens else torch.float32)
        with torch.no_grad():
            output, (h_n, c_n) = self.module.lstm(self._fed(x), state)
            y = self._head(output)
        return Reference(y[0].numpy(), output[0].numpy(), h_n[:, 0].numpy(), c_n[:, 0].numpy())

    def _fed(self, x: Tensor) -> Tensor:
        return self.module.embedding(x) if self.tokens else (x - self.module.mean) / self.module.std

    def _head(self, output: Tensor) -> Tensor:
        if self.tokens:  # one layer, one direction: output at each step is what h_n[-1] would be there
            return torch.log_softmax(self.module.head(output), -1)
        return self.module.head(output) * self.module.output_std + self.module.output_mean

    def whole(self, inputs: Sequence[Json]) -> np.ndarray:
        """The prediction `[O]` of the module's own `forward`."""
        x = torch.tensor([inputs], dtype=torch.int64 if self.tokens else torch.float32)
        with torch.no_grad():
            return self.module(x)[0].numpy()

    def rollout(self, inputs: Sequence[Json], future: Sequence[Sequence[float]], state: tuple[Tensor, Tensor] | None = None) -> np.ndarray:
        """`[n, O]`: consume `inputs`, then feed each prediction back as "v" beside what is known of its own step."""
        reference = self.run(inputs, state)
        forecasts = [reference.y[-1]]
        for known in future[:-1]:
            reference = self.run([[float(forecasts[-1][0]), *known]], reference.state)
            forecasts.append(reference.y[-1])
        return np.stack(forecasts)


def forecaster(name: str, seed: int, feedback: bool = True, **arguments: Any) -> Model:
    card = {
        "name": name, "version": VERSION, "task": "forecast", "features": FEATURES, "outputs": ["v"],
        "feedback": {"v": "v"} if feedback else {}, "arguments": {"mean": MEAN, "std": STD, "hidden_size": 16} | arguments,
    }  # fmt: skip
    return _trained(card, "Forecaster", seed)


def classifier(name: str, seed: int) -> Model:
    card = {
        "name": name, "version": VERSION, "task": "classify", "tokens": VOCABULARY, "outputs": CLASSES,
        "arguments": {"vocabulary": VOCABULARY, "classes": len(CLASSES), "embedding_size": 8, "hidden_size": 16},
    }  # fmt: skip
    return _trained(card, "TokenClassifier", seed)


def _trained(card: dict[str, Any], kind: str, seed: int) -> Model:
    """Random weights stand for trained ones; the forget gates are held open, so that a step lost or repeated shows long after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = getattr(export.models, kind)(**card["arguments"]).eval()
        hidden = module.lstm.hidden_size
        with torch.no_grad():
            for name, bias in module.lstm.named_parameters():
                if name.startswith("bias_ih"):
                    bias[hidden : 2 * hidden] += 2.0  # gates are stored in the order i, f, g, o
    return Model(card | {"factory": f"{export.models.__file__}:{kind}"}, module)


def write_checkpoint(model: Model, folder: Path) -> Path:
    """What training leaves behind: the card and the weights."""
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.module.state_dict().items()}, folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps(model.card))
    return folder


def assert_close(actual: Json, expected: np.ndarray, what: str) -> None:
    """Shapes are equal, and the largest scaled difference is within the tolerance."""
    found = np.asarray(actual, np.float64)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    apart = np.abs(found - expected) / max(1.0, float(np.abs(expected).max()))
    where = np.unravel_index(int(apart.argmax()), apart.shape)
    largest = f"largest difference {apart.max():.2e} at {tuple(map(int, where))}: {found[where]} for {expected[where]}"
    assert apart.max() <= TOLERANCE, f"{what}: {largest}, allowed {TOLERANCE:.0e}"
