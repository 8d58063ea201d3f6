"""Does every artefact say what the eager model says? Eager, TorchScript and ONNX Runtime, over lengths, batches, states and cuts.

Differences are scaled: the largest absolute difference of a tensor, divided by the largest absolute value of the reference, or by 1
where that is smaller. So one tolerance serves an output in vehicles an hour and a hidden state within ±1.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.errors import ParityError
from export.lifting import Lift

TOLERANCE = 2e-5  # scaled; float32 sums in another order differ by some 1e-6
BATCHES, STEPS = (1, 2, 5), (1, 2, 3, 24, 60)
CUTS = 6  # random ways to cut one sequence
LONG = 400  # steps of the sequence that is cut
DRIFT = 5_000  # steps of one sequence in one piece

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


def verify(model: nn.Module, lifted: Lift, files: Mapping[str, Path], seed: int = 0) -> Report:
    """Measure every artefact against the eager model, on inputs drawn from the lift's example. `files` by backend's name."""
    bench = Bench(model, lifted, torch.Generator().manual_seed(seed))
    reason = bench.streaming_reason()
    found = list(bench.lift_differences())
    for backend, path in files.items():
        label, runner = LABELS[backend], RUNNERS[backend](path)
        found += bench.grid_differences(label, runner)
        if not reason:
            found += bench.cut_differences(f"{label}, cut", runner)
            found += bench.drift_differences(f"{label}, long", runner)
    return Report(tuple(_largest(found)), reason)


class Bench:
    """One model, its lifted form, and the inputs they are compared on."""

    def __init__(self, model: nn.Module, lifted: Lift, generator: torch.Generator) -> None:
        self._model, self._lifted, self._generator = model, lifted, generator
        self._eager = eager_runner(lifted)
        self._names = ["y", "output", *(entry.output for entry in lifted.state)]
        least, most = lifted.steps
        self._steps = [most] if most is not None else [n for n in STEPS if n >= least]

    def inputs(self, batch: int, steps: int) -> Tensor:
        """`[batch, steps, …]` drawn from the example's own steps, each number shaken by a tenth of its column's spread.

        Static inputs stay what they are in the example's first row: they do not change from step to step.
        """
        window = self._lifted.window()
        x = window[0][torch.randint(window.shape[1], (batch, steps), generator=self._generator)]
        if x.is_floating_point():
            spread = window.flatten(0, 1).std(0, correction=0)
            noise = 0.1 * spread * torch.randn(x.shape, generator=self._generator)
            noise[..., x.shape[-1] - self._lifted.static_width :] = 0
            x = x + noise
        return x

    def states(self, batch: int) -> list[Tensor]:
        """Random, within what an LSTM's h can be."""
        entries = self._lifted.state
        return [torch.randn(entry.rows, batch, entry.size, generator=self._generator).clamp(-1, 1) for entry in entries]

    def streaming_reason(self) -> str:
        """Empty when any cut of a sequence gives what the whole gives; else what was measured. No list of layer names is asked."""
        least, most = self._lifted.steps
        if most is not None or least > 1:
            return f"it takes {'exactly' if most else 'at least'} {least} steps at once"
        for steps in (8, 60):
            x, states = self.inputs(2, steps), self.states(2)
            whole = self._eager(x, states)
            for _ in range(CUTS):
                cuts = random_cuts(steps, self._generator)
                pieces = run_in_pieces(self._eager, x, states, cuts, self._lifted.per == "step")
                for name, a, b in zip(self._names, pieces, whole, strict=True):
                    value = difference(a, b)
                    if not value <= TOLERANCE:
                        return f"cut at {cuts}, {name} differs from the whole sequence's by {value:.1e}"
        return ""

    def lift_differences(self) -> Iterator[Difference]:
        """The lifted module from the start of a stream against the model as its user wrote it."""
        for batch, steps in itertools.product(BATCHES, self._steps):
            x = self.inputs(batch, steps)
            value = difference(self._eager(x, self._lifted.start(batch))[0], self._lifted.unmodified(self._model, x))
            yield Difference("lifted", "y", value, f"B={batch} T={steps}, start of a stream")

    def grid_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        for batch, steps in itertools.product(BATCHES, self._steps):
            x = self.inputs(batch, steps)
            saturated = [torch.sign(state) * (1.0 if name == "h" else 8.0) for name, state in self._named(self.states(batch))]
            for kind, states in (("initial", self._lifted.start(batch)), ("random", self.states(batch)), ("saturated", saturated)):
                for name, a, b in zip(self._names, runner(x, states), self._eager(x, states), strict=True):
                    yield Difference(label, name, difference(a, b), f"B={batch} T={steps}, {kind} state")

    def _named(self, states: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Each state with the last letter of its name: h or c."""
        return [(entry.name[-1], state) for entry, state in zip(self._lifted.state, states, strict=True)]

    def drift_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        """One long sequence: do small differences grow?"""
        x, states = self.inputs(1, DRIFT), self._lifted.start(1)
        for name, a, b in zip(self._names, runner(x, states), self._eager(x, states), strict=True):
            yield Difference(label, name, difference(a, b), f"B=1 T={DRIFT}")

    def cut_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        x, states = self.inputs(2, LONG), self.states(2)
        whole = self._eager(x, states)
        for _ in range(CUTS):
            cuts = random_cuts(LONG, self._generator)
            pieces = run_in_pieces(runner, x, states, cuts, self._lifted.per == "step")
            for name, a, b in zip(self._names, pieces, whole, strict=True):
                yield Difference(label, name, difference(a, b), f"B=2 T={LONG} in {len(cuts) + 1} pieces")


def program_runner(path: Path) -> Runner:
    module = torch.export.load(path).module()

    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(module(x, *states))

    return run


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


RUNNERS = {"torchscript": torchscript_runner, "onnxruntime": onnx_runner, "torch.export": program_runner}
LABELS = {"torchscript": "TorchScript", "onnxruntime": "ONNX Runtime", "torch.export": "torch.export"}


def _largest(found: Sequence[Difference]) -> Iterator[Difference]:
    groups: dict[tuple[str, str], Difference] = {}
    for d in found:
        best = groups.get((d.artefact, d.output))
        if best is None or not d.value <= best.value:
            groups[d.artefact, d.output] = d
    return iter(groups.values())
