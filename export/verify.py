"""Does every artefact say what the eager model says? Eager, TorchScript and ONNX Runtime, over lengths, batches, states and cuts.

Differences are scaled: the largest absolute difference of a tensor, divided by the largest absolute value of the reference, or by 1
where that is smaller. So one tolerance serves an output in vehicles an hour and a hidden state within ±1.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.errors import ParityError
from export.lift import Lift

TOLERANCE = 2e-5  # scaled; float32 sums in another order differ by some 1e-6
BATCHES, STEPS = (1, 2, 5), (1, 2, 3, 24, 60)
CUTS = 6  # random ways to cut one sequence
LONG = 400  # steps of the sequence that is cut

Runner = Callable[[Tensor, Sequence[Tensor]], list[Tensor]]  # x, states -> y, output, *states


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest scaled difference found in one output of one artefact."""

    artefact: str
    output: str
    value: float
    where: str

    def row(self) -> str:
        return f"  {self.artefact:<22} {self.output:<8} {self.value:9.2e}   {self.where}"


@dataclass(frozen=True)
class Report:
    """All that was measured. `streaming_reason` is empty for a model whose pieces give what the whole gives."""

    differences: tuple[Difference, ...]
    streaming_reason: str

    def check(self) -> None:
        """Raises ParityError, naming the worst output, where, and by how much."""
        worst = max(self.differences, key=lambda d: d.value if d.value == d.value else np.inf)
        if not worst.value <= TOLERANCE:
            found = f"{worst.artefact}: {worst.output} differs from the eager model by {worst.value:.2e} at {worst.where}"
            raise ParityError(f"{found}; allowed {TOLERANCE:.0e}")

    def table(self) -> str:
        lines = [f"  {'artefact':<22} {'output':<8} {'largest':>9}   where", *(d.row() for d in self.differences)]
        return "\n".join(lines)


def verify(model: nn.Module, lifted: Lift, torchscript: Path, onnx_file: Path, sample: Tensor, seed: int = 0) -> Report:
    """Measure every artefact against the eager model. `sample` is one real window, `[1, T, F]` or `[1, T]`."""
    names = ["y", "output", *(entry.output for entry in lifted.state)]
    generator = torch.Generator().manual_seed(seed)
    eager = eager_runner(lifted)
    reason = streaming_reason(eager, lifted, sample, generator)
    runners = {"TorchScript": torchscript_runner(torchscript), "ONNX Runtime": onnx_runner(onnx_file)}
    found = list(_lift_differences(model, eager, lifted, sample, generator))
    for label, runner in runners.items():
        found += _grid_differences(label, runner, eager, lifted, names, sample, generator)
        if not reason:
            found += _cut_differences(f"{label}, cut", runner, eager, lifted, names, sample, generator)
    return Report(tuple(_largest(found)), reason)


def eager_runner(lifted: Lift) -> Runner:
    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(lifted.module(x, *states))

    return run


def torchscript_runner(path: Path) -> Runner:
    module = torch.jit.load(str(path)).eval()  # type: ignore[no-untyped-call]

    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(module(x, *states))

    return run


def onnx_runner(path: Path) -> Runner:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, (x, *states), strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run


def inputs(sample: Tensor, batch: int, steps: int, generator: torch.Generator) -> Tensor:
    """`[batch, steps, …]` drawn from the sample's own steps, numeric features shaken by a tenth of their spread."""
    rows = torch.randint(sample.shape[1], (batch, steps), generator=generator)
    x = sample[0][rows]
    if x.is_floating_point():
        spread = sample[0].std(0, correction=0)
        x = x + 0.1 * spread * torch.randn(x.shape, generator=generator)
    return x


def random_states(lifted: Lift, batch: int, generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(entry.rows, batch, entry.size, generator=generator).clamp(-1, 1) for entry in lifted.state]


def difference(actual: Tensor, expected: Tensor) -> float:
    """Scaled, see above; infinite for another shape, NaN for a NaN."""
    if actual.shape != expected.shape:
        return float("inf")
    return float((actual - expected).abs().max() / max(1.0, float(expected.abs().max())))


def run_in_pieces(runner: Runner, x: Tensor, states: Sequence[Tensor], cuts: Sequence[int], per_step: bool) -> list[Tensor]:
    """Run x `[B, T, …]` piece by piece, carrying the states; outputs as the whole would give them."""
    ys, outputs, carried = [], [], list(states)
    for piece in torch.tensor_split(x, list(cuts), dim=1):
        y, output, *carried = runner(piece.contiguous(), carried)
        ys.append(y)
        outputs.append(output)
    return [torch.cat(ys, 1) if per_step else ys[-1], torch.cat(outputs, 1), *carried]


def random_cuts(steps: int, generator: torch.Generator) -> list[int]:
    pieces = int(torch.randint(2, min(steps, 40), (1,), generator=generator))
    return sorted((torch.randperm(steps - 1, generator=generator)[: pieces - 1] + 1).tolist())


def streaming_reason(eager: Runner, lifted: Lift, sample: Tensor, generator: torch.Generator) -> str:
    """Empty when any cut of a sequence gives what the whole gives; else what was measured. No list of layer names is asked."""
    for steps in (8, 60):
        x, states = inputs(sample, 2, steps, generator), random_states(lifted, 2, generator)
        whole = eager(x, states)
        for _ in range(CUTS):
            cuts = random_cuts(steps, generator)
            pieces = run_in_pieces(eager, x, states, cuts, whole[0].dim() == 3)
            for name, a, b in zip(("y", "output", "h_n", "c_n"), pieces, whole, strict=True):
                value = difference(a, b)
                if not value <= TOLERANCE:
                    return f"cut at {cuts}, {name} differs from the whole sequence's by {value:.1e}"
    return ""


def _lift_differences(model: nn.Module, eager: Runner, lifted: Lift, sample: Tensor, generator: torch.Generator) -> Iterator[Difference]:
    """The lifted module from a zero state against the unmodified one."""
    for batch in BATCHES:
        for steps in STEPS:
            x = inputs(sample, batch, steps, generator)
            with torch.no_grad():
                value = difference(eager(x, lifted.zeros(batch))[0], model(x))
            yield Difference("lifted", "y", value, f"B={batch} T={steps}, zero state")


def _grid_differences(
    label: str, runner: Runner, eager: Runner, lifted: Lift, names: Sequence[str], sample: Tensor, generator: torch.Generator
) -> Iterator[Difference]:
    for batch in BATCHES:
        for steps in STEPS:
            x = inputs(sample, batch, steps, generator)
            for kind, states in (("zero", lifted.zeros(batch)), ("random", random_states(lifted, batch, generator))):
                for name, a, b in zip(names, runner(x, states), eager(x, states), strict=True):
                    yield Difference(label, name, difference(a, b), f"B={batch} T={steps}, {kind} state")


def _cut_differences(
    label: str, runner: Runner, eager: Runner, lifted: Lift, names: Sequence[str], sample: Tensor, generator: torch.Generator
) -> Iterator[Difference]:
    x, states = inputs(sample, 2, LONG, generator), random_states(lifted, 2, generator)
    whole = eager(x, states)
    for _ in range(CUTS):
        cuts = random_cuts(LONG, generator)
        pieces = run_in_pieces(runner, x, states, cuts, whole[0].dim() == 3)
        for name, a, b in zip(names, pieces, whole, strict=True):
            yield Difference(label, name, difference(a, b), f"B=2 T={LONG} in {len(cuts) + 1} pieces")


def _largest(found: Sequence[Difference]) -> Iterator[Difference]:
    groups: dict[tuple[str, str], Difference] = {}
    for d in found:
        best = groups.get((d.artefact, d.output))
        if best is None or not d.value <= best.value:
            groups[d.artefact, d.output] = d
    return iter(groups.values())
