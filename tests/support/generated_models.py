"""Models drawn by options, one family for each way in which an export can be wrong. Some stream, some do not, some cannot be exported.

Each says what users would send (`columns`), and which arguments of its forward that is (`arguments`): neither asks the exporter.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from tests.support.model_zoo import H

Random = np.random.Generator
F = 2
EXAMPLE_STEPS = 16


class Family(nn.Module):
    """A GRU with a head, and what surrounds it."""

    options: ClassVar[dict[str, tuple[Any, ...]]]
    tokens = 0

    def __init__(self, **drawn: Any) -> None:
        super().__init__()
        for name, value in drawn.items():
            setattr(self, name, value)
        self.rnn, self.head = nn.GRU(self.width, H, batch_first=True), nn.Linear(H, 2)

    width = F

    def columns(self, random: Random, steps: int) -> Any:
        """Return `[T, F]` numbers or `[T]` ids as a request has them."""
        return random.normal(size=(steps, F)).astype(np.float32)

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        """Return forward's arguments for the columns `[B, T, …]`."""
        return (x,)

    def example(self) -> Any:
        """Return forward's arguments for two rows."""
        random = np.random.default_rng(8)
        return self.arguments(torch.from_numpy(np.stack([self.columns(random, EXAMPLE_STEPS) for _ in range(2)])))

    def last(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Lengths(Family):
    """What a model does depends on T, or on the number of a step."""

    kind: str
    n: int
    options: ClassVar[dict[str, tuple[Any, ...]]] = {
        "kind": ("lag", "last", "first", "stride", "branch", "branch on a step", "table", "wave", "restarts", "chunks", "relative"),
        "n": (2, 7, 40, 140, 700),
    }

    def __init__(self, **drawn: Any) -> None:
        super().__init__(**drawn)
        self.table = nn.Parameter(torch.randn(1, self.n, F))

    def forward(self, x: Tensor) -> Tensor:
        n, steps = self.n, x.size(1)
        if self.kind == "lag":
            return self.last(x) + nn.functional.pad(x, (0, 0, n, 0))[:, steps - 1]
        if self.kind in ("last", "first"):
            return self.last(x[:, -n:] if self.kind == "last" else x[:, :n])
        if self.kind == "stride":
            return self.last(x[:, ::n])
        if self.kind == "branch":
            return self.last(x) * (2.0 if steps > n else 1.0)
        if self.kind == "branch on a step":
            outputs, h = [], None
            for t in range(steps):
                out, h = self.rnn(x[:, t : t + 1], None if t == n else h)
                outputs.append(out)
            return self.head(torch.cat(outputs, 1))
        if self.kind == "table":
            return self.last(x + self.table[:, :steps])
        if self.kind == "wave":
            return self.last(x + torch.sin(torch.arange(steps) / n)[None, :, None])
        if self.kind == "restarts":
            return self.head(torch.cat([self.rnn(chunk)[0] for chunk in x.split(n, 1)], 1))
        if self.kind == "chunks":
            outputs, h = [], None
            for chunk in x.split(n, 1):
                out, h = self.rnn(chunk, h)
                outputs.append(out)
            return self.head(torch.cat(outputs, 1))
        return self.last(x / (x[:, :1].abs() + 1))


class Padding(Family):
    """Lengths that the model counts from x, of numbers or of token ids."""

    kind: str
    pad: int
    words: bool
    options: ClassVar[dict[str, tuple[Any, ...]]] = {
        "kind": ("pack", "gather", "mean", "attention", "keep", "zero"),
        "pad": (0, 1, -1),
        "words": (False, True),
    }

    def __init__(self, **drawn: Any) -> None:
        super().__init__(**drawn)
        self.pad, self.tokens = abs(self.pad) if self.words else self.pad, 30 if self.words else 0
        self.embedding = nn.Embedding(30, F)

    def columns(self, random: Random, steps: int) -> Any:
        values = random.integers(2, 30, steps) if self.words else super().columns(random, steps)
        if steps != EXAMPLE_STEPS:  # the example has no padding
            values[random.integers(1, steps + 1) :] = self.pad
        return values

    def forward(self, x: Tensor) -> Tensor:
        valid = x != self.pad if self.words else ~(x == self.pad).all(-1)
        lengths, x = valid.sum(1).clamp(min=1), self.embedding(x) if self.words else x
        if self.kind == "pack":
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            return self.head(self.rnn(packed)[1][-1])
        out = self.rnn(x)[0]
        if self.kind == "gather":
            return self.head(out[torch.arange(x.size(0)), lengths - 1])
        if self.kind == "mean":
            return self.head((out * valid[..., None]).sum(1) / lengths[:, None])
        if self.kind == "attention":
            return self.head((out * out.sum(-1).masked_fill(~valid, -1e9).softmax(1)[..., None]).sum(1))
        return self.head(out) * valid[..., None] if self.kind == "zero" else self.head(out[:, -1]) * valid.any(1, keepdim=True)


class Integers(Family):
    """Ids beside x or in a column of it, after some arithmetic."""

    kind: str
    place: str
    options: ClassVar[dict[str, tuple[Any, ...]]] = {
        "kind": ("plain", "from one", "modulo", "clamped", "large"),
        "place": ("column", "series", "static"),
    }

    def __init__(self, **drawn: Any) -> None:
        super().__init__(**drawn)
        self.embedding = nn.Embedding(7, F)

    def columns(self, random: Random, steps: int) -> Any:
        most = {"modulo": 900_000, "large": 2**24}.get(self.kind, 7)
        ids = random.integers(1, most + (self.kind == "from one"), (1 if self.place == "static" else steps, 1))
        return np.concatenate([super().columns(random, steps), np.broadcast_to(ids, (steps, 1))], 1).astype(np.float32)

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        if self.place == "column":
            return (x,)
        return x[..., :F], x[:, -1, F].long() if self.place == "static" else x[..., F].long()

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        ids = x[..., F].long() if ids is None else ids
        if self.kind != "plain":
            ids = ids - 1 if self.kind == "from one" else ids.clamp(0, 6) if self.kind == "clamped" else ids % 7
        embedded = self.embedding(ids)
        return self.last(x[..., :F] + (embedded if embedded.dim() == 3 else embedded[:, None]))


class Shapes(Family):
    """What is computed, or how wide it is, depends on how many steps there are."""

    kind: str
    n: int
    options: ClassVar[dict[str, tuple[Any, ...]]] = {
        "kind": ("flat", "narrow", "pool", "top", "convolution", "halves", "later", "attention"),
        "n": (3, 5, 12),
    }

    def __init__(self, **drawn: Any) -> None:
        super().__init__(**drawn)
        self.flat, self.convolution = nn.Linear(self.n * H, 2), nn.Conv1d(F, F, self.n)

    def forward(self, x: Tensor) -> Any:
        if self.kind == "convolution":
            return self.last(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        out = self.rnn(x)[0]
        if self.kind == "flat":
            return self.flat(out[:, -self.n :].flatten(1))
        if self.kind == "narrow":
            return out[:, -self.n :, 0]
        if self.kind == "pool":
            return self.flat(nn.functional.adaptive_max_pool1d(out.transpose(1, 2), self.n).flatten(1))
        if self.kind == "top":
            return self.head(out.topk(self.n, 1)[0].mean(1))
        if self.kind in ("halves", "later"):
            return self.head(out[:, ::2] if self.kind == "halves" else out[:, self.n :])
        weights = (out @ out.transpose(1, 2)).softmax(-1)
        return self.head((weights @ out)[:, -1]), weights


class Ranges(Family):
    """Functions that are defined for one sign, or leave the numbers soon."""

    kind: str
    scale: float
    options: ClassVar[dict[str, tuple[Any, ...]]] = {
        "kind": ("log", "root", "negative root", "inverse", "exponential", "share", "plain"),
        "scale": (1e-6, 1.0, 5e3, 1e9),
    }

    def columns(self, random: Random, steps: int) -> Any:
        values = super().columns(random, steps) * self.scale
        return (
            np.abs(values) + self.scale if self.kind in ("log", "root", "share") else -np.abs(values) if "negative" in self.kind else values
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x / self.scale
        if self.kind == "exponential":
            return torch.exp(self.last(x) * 10)
        if self.kind == "share":
            return self.last(x / x.sum(-1, keepdim=True))
        steps = {"log": torch.log, "root": torch.sqrt, "negative root": lambda v: torch.sqrt(-v), "inverse": torch.reciprocal}
        return self.last(steps.get(self.kind, lambda v: v)(x))


class Orders(Family):
    """The order of axes and of arguments."""

    order: str
    beside: str
    options: ClassVar[dict[str, tuple[Any, ...]]] = {
        "order": ("BTF", "TBF", "BFT", "BT"),
        "beside": ("nothing", "static first", "static", "series", "weights"),
    }

    def __init__(self, **drawn: Any) -> None:
        super().__init__(**drawn)
        self.static = nn.Linear(3, 2)

    @property
    def width(self) -> int:  # type: ignore[override]
        return 1 if self.order == "BT" else F

    @property
    def extra(self) -> int:
        """The number of columns of what stands beside x."""
        return {"nothing": 0, "series": self.width, "weights": 1}.get(self.beside, 3)

    def columns(self, random: Random, steps: int) -> Any:
        rows = 1 if self.beside.startswith("static") else steps
        beside = np.broadcast_to(random.normal(size=(rows, self.extra)), (steps, self.extra))
        values = np.concatenate([random.normal(size=(steps, self.width)), beside], 1).astype(np.float32)
        return values[:, 0] if values.shape[1] == 1 else values

    def arguments(self, x: Tensor) -> tuple[Any, ...]:
        x = x[..., None] if x.dim() == 2 else x
        own, beside = x[..., : self.width], x[..., self.width :]
        own = own[..., 0] if self.order == "BT" else own.permute(*("BTF".index(axis) for axis in self.order)).contiguous()
        if self.beside == "nothing":
            return (own,)
        if self.beside.startswith("static"):
            return (beside[:, -1], own) if self.beside == "static first" else (own, beside[:, -1])
        beside = beside[..., 0] if self.beside == "weights" else beside
        return own, beside.transpose(0, 1).contiguous() if self.order == "TBF" else beside

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        if self.beside == "static first":
            assert beside is not None
            x, beside = beside, x
        x = x[..., None] if self.order == "BT" else x.permute(*(self.order.index(axis) for axis in "BTF"))
        if beside is None:
            return self.last(x)
        if self.beside.startswith("static"):
            return self.last(x) + self.static(beside)
        beside = beside.transpose(0, 1) if self.order == "TBF" else beside
        return self.last(x * (beside[..., None] if self.beside == "weights" else beside))


FAMILIES: tuple[type[Family], ...] = (Lengths, Padding, Integers, Shapes, Ranges, Orders)
