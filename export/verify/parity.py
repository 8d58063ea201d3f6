"""Does every artefact say what the eager model says? Eager, TorchScript and ONNX Runtime, over lengths, batches, states and cuts.

Differences are scaled: `measure.difference`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.errors import ParityError
from export.lift import probe
from export.lift.lifted import Lift
from export.verify.measure import difference as difference

TOLERANCE = 2e-5  # scaled; float32 sums in another order differ by some 1e-6
DOUBLE_TOLERANCE = 1e-9  # scaled; the same in float64
FROZEN = (
    "the graph holds the example's B or T, or values from it, as constants: build shapes from x.size(0) and x.size(1), and keep int(), "
    ".item(), NumPy and loops over T out of forward"
)
BATCHES, STEPS = (1, 2, 5), (1, 2, 3, 24, 60)
CUTS = 6  # random ways to cut one sequence
LONG = 400  # steps of the sequence that is cut
MAGNITUDES = (float(np.finfo(np.float32).max), 1e36, 1e30, 1e24, 1e18, 1e12, 1e9, 1e6, 1e3)  # tried as inputs
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
    input_limit: float = MAGNITUDES[0]  # the largest magnitude of an input for which every artefact was right

    def check(self) -> None:
        """Raises ParityError, naming the worst output, where, and by how much."""
        worst = max(self.differences, key=lambda d: d.value if d.value == d.value else np.inf)
        if not worst.value <= TOLERANCE:
            found = f"{worst.artefact}: {worst.output} differs from the eager model by {worst.value:.2e} at {worst.where}"
            raise ParityError(f"{found}; allowed {TOLERANCE:.0e}; {FROZEN}")

    def table(self) -> str:
        lines = [f"  {'artefact':<22} {'output':<8} {'largest':>9}   where", *(d.row() for d in self.differences)]
        return "\n".join(lines)


def verify(model: nn.Module, lifted: Lift, files: Mapping[str, Path], seed: int = 0) -> Report:
    """Measure every artefact against the eager model, on inputs drawn from the lift's example. `files` by backend's name."""
    bench = Bench(model, lifted, torch.Generator().manual_seed(seed))
    reason, limits = bench.streaming_reason(), []
    found = list(bench.lift_differences())
    for backend, path in files.items():
        label = LABELS[backend]
        runner = refusing(label, RUNNERS[backend](path))
        found += bench.grid_differences(label, runner)
        limits.append(bench.input_limit(runner))
        if not reason:
            found += bench.cut_differences(f"{label}, cut", runner)
            found += bench.drift_differences(f"{label}, long", runner)
    return Report(tuple(_largest(found)), reason, min(limits))


class Bench:
    """One model, its lifted form, and the inputs they are compared on."""

    def __init__(self, model: nn.Module, lifted: Lift, generator: torch.Generator) -> None:
        self._model, self._lifted, self._generator = model, lifted, generator
        self._eager = eager_runner(lifted)
        self._names = ["y", "output", *(entry.output for entry in lifted.state)]
        least, most = lifted.steps
        self._steps = [n for n in STEPS if least <= n <= (most or n)] or [least]

    def inputs(self, batch: int, steps: int) -> Tensor:
        return self._lifted.inputs(batch, steps, self._generator)

    def states(self, batch: int) -> list[Tensor]:
        """Random, within what an LSTM's h can be."""
        entries = self._lifted.state
        return [torch.randn(entry.rows, batch, entry.size, generator=self._generator).clamp(-1, 1) for entry in entries]

    def streaming_reason(self) -> str:
        """Empty when any cut of a sequence gives what the whole gives; else what was measured. No list of layer names is asked.

        Measured in float64 where the model runs in it: there rounding is 1e-16, and no difference is too small to be told from it.
        """
        least, most = self._lifted.steps
        if most is not None or least > 1:
            span = f"exactly {least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
            return f"it takes {span} steps at once"
        with in_double(self._lifted) as doubled:
            for steps in (8, 60):
                x, states = self.inputs(2, steps), self.states(2)
                if doubled:
                    x, states = x.double() if x.is_floating_point() else x, [state.double() for state in states]
                reason = self._cut_reason(x, states, DOUBLE_TOLERANCE if doubled else TOLERANCE, 1e-30 if doubled else 1.0)
                if reason:
                    return reason
        return ""

    def _cut_reason(self, x: Tensor, states: Sequence[Tensor], tolerance: float, floor: float) -> str:
        whole = self._eager(x, states)
        for _ in range(CUTS):
            cuts = random_cuts(x.shape[1], self._generator)
            pieces = run_in_pieces(self._eager, x, states, cuts, self._lifted.per == "step")
            for name, a, b in zip(self._names, pieces, whole, strict=True):
                value = difference(a, b, floor)
                if not value <= tolerance:
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
                where = f"B={batch} T={steps}, {kind} state"
                for name, a, b in zip(self._names, runner(x, states), self._eager(x, states), strict=True):
                    yield Difference(label, name, difference(a, b), where)

    def _named(self, states: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Each state with the last letter of its name: h or c."""
        return [(entry.name[-1], state) for entry, state in zip(self._lifted.state, states, strict=True)]

    def drift_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        """One long sequence: do small differences grow?"""
        x, states = self.inputs(1, DRIFT), self._lifted.start(1)
        for name, a, b in zip(self._names, runner(x, states), self._eager(x, states), strict=True):
            yield Difference(label, name, difference(a, b), f"B=1 T={DRIFT}")

    def input_limit(self, runner: Runner) -> float:
        """The largest of `MAGNITUDES` at which the artefact is finite wherever eager is, and equal; eager must be finite too.

        Beyond it a runtime may answer with numbers where the sum has left them: ONNX Runtime's LSTM makes a number of a NaN.
        """
        if not self._lifted.window().is_floating_point():
            return MAGNITUDES[0]
        window = self._lifted.window()
        x, states = self.inputs(4, self._steps[0]), self._lifted.start(4)
        signs = torch.where(torch.rand(x.shape, generator=self._generator) < 0.5, -1.0, 1.0)
        whole = probe.whole(window)  # columns that may be ids, if not all are: those have no magnitude to try
        return next((m for m in MAGNITUDES if self._right(runner, x.where(whole & ~whole.all(), signs * m), states)), MAGNITUDES[-1])

    def _right(self, runner: Runner, x: Tensor, states: Sequence[Tensor]) -> bool:
        try:
            expected = self._eager(x, states)
        except Exception:  # noqa: BLE001 - the user's code may raise anything: ids out of range, mostly
            return False
        finite = all(bool(torch.isfinite(t).all()) for t in expected)
        return finite and all(difference(a, b) <= TOLERANCE for a, b in zip(runner(x, states), expected, strict=True))

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


def refusing(label: str, runner: Runner) -> Runner:
    """The same; raises ParityError where an artefact fails: mostly one that a size was frozen into."""

    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        try:
            return runner(x, states)
        except Exception as e:
            reason = next((line.strip() for line in reversed(str(e).splitlines()) if line.strip()), type(e).__name__)
            raise ParityError(f"{label} fails at B={x.shape[0]} T={x.shape[1]}: {reason[:200]}; {FROZEN}") from e

    return run


def _runs(lifted: Lift) -> bool:
    """Whether it runs in float64: a model may insist on float32 somewhere."""
    x = lifted.window()
    try:
        with torch.no_grad():
            lifted.module(x.double() if x.is_floating_point() else x, *(state.double() for state in lifted.start(len(x))))
    except Exception:  # noqa: BLE001 - the user's code may raise anything; then float32 has to do
        return False
    return True


@contextlib.contextmanager
def in_double(lifted: Lift) -> Iterator[bool]:
    """The lifted module in float64 for a while, if it runs so; whether it does."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        lifted.module.double()
        yield _runs(lifted)
    finally:
        torch.set_default_dtype(before)
        lifted.module.float()


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
