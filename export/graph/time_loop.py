"""Loop over time around a module lifted for T = 1, in Python or as part of a graph.

The states go through the loop as one tensor `[B, S]`, so that the scripted loop has one signature for all models.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from handlers.signature import StateEntry


class EagerLoop(nn.Module):
    """Run a lifted step in a Python loop: the reference for the loops in graphs. x `[B, T, …]`."""

    def __init__(self, step: nn.Module, output_mode: str) -> None:
        super().__init__()
        self.step, self.output_mode = step, output_mode

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        ys, outputs, carried = [], [], list(states)
        for t in range(x.shape[1]):
            y, output, *carried = self.step(x[:, t : t + 1], *carried)
            ys.append(y)
            outputs.append(output)
        return ys[-1] if self.output_mode == "sequence" else torch.cat(ys, 1), torch.cat(outputs, 1), *carried


class PackedStep(nn.Module):
    """A lifted step with its states in one tensor: x `[B, 1, …]`, states `[B, S]` -> y, output, states."""

    def __init__(self, step: nn.Module, entries: Sequence[StateEntry]) -> None:
        super().__init__()
        self.step, self.entries = step, tuple(entries)

    def forward(self, x: Tensor, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, output, *states = self.step(x, *unpack(packed, self.entries))
        return y, output, pack(states)


def pack(states: Sequence[Tensor]) -> Tensor:
    """Join states `[rows, B, size]` into one tensor `[B, S]`."""
    return torch.cat([state.transpose(0, 1).flatten(1) for state in states], 1)


def unpack(packed: Tensor, entries: Sequence[StateEntry]) -> list[Tensor]:
    """Split `[B, S]` into states `[rows, B, size]`: the inverse of `pack`."""
    parts = torch.split(packed, [entry.length for entry in entries], 1)
    return [part.reshape(-1, e.rows, e.size).transpose(0, 1).contiguous() for part, e in zip(parts, entries, strict=True)]


class ScriptedLoop(nn.Module):
    """Loop over a traced PackedStep. To be compiled by `torch.jit.script`, which keeps T as the bound of the loop."""

    def __init__(self, step: torch.jit.ScriptModule, per_step: bool) -> None:
        super().__init__()
        self.step = step
        self.per_step = per_step

    def forward(self, x: Tensor, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ys: list[Tensor] = []
        outputs: list[Tensor] = []
        for t in range(x.size(1)):
            y, output, packed = self.step(x[:, t : t + 1], packed)
            ys.append(y)
            outputs.append(output)
        y = torch.cat(ys, 1) if self.per_step else ys[-1]
        return y, torch.cat(outputs, 1), packed


class Stepped(nn.Module):
    """The model as a scripted loop over its traced step, with the interface of `Lifted`, for any T."""

    def __init__(self, step: nn.Module, entries: Sequence[StateEntry], x: Tensor, output_mode: str) -> None:
        super().__init__()
        self.entries = tuple(entries)
        packed = torch.zeros(x.shape[0], sum(entry.length for entry in entries))
        traced = torch.jit.trace(PackedStep(step, entries).eval(), (x[:, :1], packed), check_trace=False)  # type: ignore[no-untyped-call]
        self.loop = torch.jit.script(ScriptedLoop(traced, output_mode == "step"))

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, output, packed = self.loop(x, pack(states))
        return y, output, *unpack(packed, self.entries)


class ScannedLoop(nn.Module):
    """Loop over an exported PackedStep by a `scan`, for torch.export."""

    def __init__(self, step: nn.Module, entries: Sequence[StateEntry], output_mode: str) -> None:
        super().__init__()
        self.step, self.entries, self.output_mode = step, tuple(entries), output_mode

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        def body(packed: Tensor, x_t: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            y, output, new = self.step(x_t[:, None], packed)
            return new.clone(), (y.clone(), output.clone())

        packed, (ys, outputs) = scan(body, pack(states), x.transpose(0, 1))
        y = ys[-1] if self.output_mode == "sequence" else ys[:, :, 0].transpose(0, 1)
        return y, outputs[:, :, 0].transpose(0, 1), *unpack(packed, self.entries)
