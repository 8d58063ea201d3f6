"""Draw inputs for measurements: like the example, and beyond it, with the signs and the ids that users will send."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHARE_OF_SPECIAL = 0.2  # of ids: padding, the first and the last
SPIKE = 0.1  # share of numbers that become spikes, and of those that are drawn about a threshold of the model
LAST = 0.4  # the latter share at the last step
FACTORS = (1.0, 3.0, 10.0)  # by which a widened row is stretched


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws `[batch, steps, F]` numbers or `[batch, steps]` ids like those of `window`."""

    window: Tensor  # `[2, T, F]` or `[2, T]`
    static: int = 0  # how many of the last columns are constant over a sequence
    ids: Mapping[int, int] = field(default_factory=dict)  # column -> how many ids there are, where that is known; 0 for token ids
    ranges: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # other columns of integers -> the least and the most they take
    integers: tuple[bool, ...] = ()  # columns that the model may take for ids; none if empty
    special: tuple[int, ...] = (0,)  # ids that often mean padding
    thresholds: tuple[float, ...] = ()  # numbers that the model compares with
    paddings: tuple[float, ...] = (0.0,)  # numbers that the model may take for padding: 0, and those that it tests for equality

    def draw(self, batch: int, steps: int, generator: torch.Generator) -> Tensor:
        """Draw steps of the window in random order, each number moved by a tenth of its column's spread.

        Columns of integers may be ids: they get every id where the number of ids is known, and else those of the window.
        A constant column also gets 0 and 1. Numbers keep the signs of their column.
        """
        pool = self._pool()  # [N, F]
        x = pool[torch.randint(len(pool), (batch, steps), generator=generator)]  # [batch, steps, F]
        x = self._moved(x, pool, generator) if self.window.is_floating_point() else self._with_zeros_and_ones(x, pool, 0.1, generator)
        x = self._with_all_ids(x, generator)
        if self.static:
            x[..., -self.static :] = x[:, :1, -self.static :].clone()
        return x.reshape(batch, steps, *self.window.shape[2:])

    def widened(self, batch: int, steps: int, generator: torch.Generator) -> Tensor:
        """Draw as `draw` does, then stretch rows by 1, 3 and 10, shift them by their columns' spread, and add spikes of ten times that.

        Rows end in padding, each after another length: all but every fourth row of token ids, every third row of numbers.
        """
        x = self.draw(batch, steps, generator)
        if not self.window.is_floating_point():
            return self._ended(x, torch.tensor(self.special), torch.arange(batch) % 4 != 3, generator)
        shape, pool = x.shape, self._pool()
        x = x.reshape(batch, steps, -1)
        spread = pool.std(0, correction=0).clamp(min=1e-3)
        factor = torch.tensor(FACTORS)[torch.arange(batch) % len(FACTORS)][:, None, None]
        spikes = (torch.rand(x.shape, generator=generator) < SPIKE) * 10 * spread * torch.randn(x.shape, generator=generator)
        wide = self._with_signs(x * factor + (factor - 1) * spread * torch.randn(x.shape, generator=generator) + spikes)
        wide = torch.where(self.integer_columns(), x, self._near_thresholds(wide, spread, generator))
        padded = self._ended(wide, torch.tensor(self.paddings), torch.arange(batch) % 3 == 2, generator)
        wide = torch.where(self._valid(padded), padded, wide)
        if self.static:
            wide[..., -self.static :] = wide[:, :1, -self.static :].clone()
        return wide.reshape(shape)

    @property
    def bounds(self) -> dict[int, tuple[int, int]]:
        """The least and the most that a column of integers takes, where that is known."""
        return {column: (0, count - 1) for column, count in self.ids.items()} | dict(self.ranges)

    def integer_columns(self) -> Tensor:
        """Return a mask over the columns that hold integers only and that the model may take for ids."""
        pool = self._pool()
        return (pool == pool.round()).all(0) & torch.tensor(self.integers or (False,) * pool.shape[1])

    def sign_bounds(self) -> tuple[Tensor, Tensor]:
        """Return masks over the columns without a negative, and without a positive number."""
        pool = self._pool()
        return (pool >= 0).all(0), (pool <= 0).all(0)

    def with_magnitude(self, magnitude: float, batch: int, steps: int, generator: torch.Generator, signed: bool) -> Tensor:
        """Draw, and set every number that is no id to ±`magnitude`; with the signs of its column unless `signed`."""
        x = self.draw(batch, steps, generator)
        flat = x.reshape(batch, steps, -1)
        extreme = torch.where(torch.rand(flat.shape, generator=generator) < 0.5, -magnitude, magnitude)
        extreme = extreme if signed else self._with_signs(extreme)
        ids = self.integer_columns()
        known = torch.tensor([column in self.bounds for column in range(len(ids))])
        kept = known | (ids & ~ids.all())
        return torch.where(kept, flat, extreme).reshape(x.shape)

    def _near_thresholds(self, x: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
        """Replace some numbers by those that the model compares with, or by numbers about them."""
        if not self.thresholds:
            return x
        chosen = torch.tensor(self.thresholds)[torch.randint(len(self.thresholds), x.shape, generator=generator)]
        moved = self._with_signs(chosen + spread * torch.randn(x.shape, generator=generator))
        near = torch.where(torch.rand(x.shape, generator=generator) < 0.5, chosen, moved)
        share = torch.full(x.shape[1:2], SPIKE)
        share[-1] = LAST  # many models answer from the last step
        return torch.where(torch.rand(x.shape, generator=generator) < share[:, None], near, x)

    def _pool(self) -> Tensor:
        return self.window.reshape(self.window.shape[0] * self.window.shape[1], -1)

    def _moved(self, x: Tensor, pool: Tensor, generator: torch.Generator) -> Tensor:
        constant = (pool == pool[0]).all(0)
        spread = torch.where(constant, pool[0].abs().clamp(min=1), pool.std(0, correction=0))
        moved = self._with_signs(x + 0.1 * spread * torch.randn(x.shape, generator=generator))
        return torch.where(self.integer_columns(), self._with_zeros_and_ones(x, pool, 0.0, generator), moved)

    def _with_signs(self, x: Tensor) -> Tensor:
        """Give every number the sign of its column, if all numbers of the window have one sign there."""
        positive, negative = self.sign_bounds()
        both = positive & negative
        return torch.where(positive & ~both, x.abs(), torch.where(negative & ~both, -x.abs(), x))

    @staticmethod
    def _with_zeros_and_ones(x: Tensor, pool: Tensor, share: float, generator: torch.Generator) -> Tensor:
        constant = (pool == pool[0]).all(0)
        bits = torch.randint(2, x.shape, generator=generator).to(x.dtype)
        replaced = torch.rand(x.shape, generator=generator) < torch.where(constant, 0.5, share)
        return torch.where(replaced, bits * constant, x)

    def _with_all_ids(self, x: Tensor, generator: torch.Generator) -> Tensor:
        for column, (least, most) in self.bounds.items():
            every = torch.randint(least, most + 1, x.shape[:2], generator=generator)
            special = torch.tensor([i for i in (*self.special, least, most) if least <= i <= most])
            chosen = special[torch.randint(len(special), x.shape[:2], generator=generator)]
            share = torch.rand(x.shape[:2], generator=generator)
            drawn = torch.where(share < SHARE_OF_SPECIAL, chosen, every).to(x.dtype)
            x[..., column] = torch.where(share < 0.7, drawn, x[..., column])
        return x

    @staticmethod
    def _ended(x: Tensor, paddings: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """End each of `rows`, a mask over the batch, in one of `paddings` after a random length."""
        lengths = torch.randint(1, x.shape[1] + 1, (x.shape[0],), generator=generator)
        values = paddings[torch.randint(len(paddings), (x.shape[0],), generator=generator)].to(x.dtype)
        ended = (torch.arange(x.shape[1]) >= lengths[:, None]) & rows[:, None]
        ended = ended.reshape(*ended.shape, *[1] * (x.dim() - 2))
        return torch.where(ended, values.reshape(-1, *[1] * (x.dim() - 1)), x)

    def _valid(self, x: Tensor) -> Tensor:
        """Return a mask of the numbers that a column may hold: integers only within bounds that are known."""
        least, most = torch.tensor([self.bounds.get(column, (1, 0)) for column in range(x.shape[-1])]).unbind(-1)
        return ~self.integer_columns() | ((x == x.round()) & (x >= least) & (x <= most))
