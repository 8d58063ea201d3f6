"""Compare every artefact with the eager model, over batches, lengths, states and cuts. Differences are scaled: `export.difference`."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.difference import difference
from export.lift.lifted import Lift
from export.report import Difference, Report
from export.verify.input_range import input_limit
from export.verify.runners import LABELS, Runner, eager_runner, open_artefact, random_cuts, run_in_pieces
from export.verify.streaming import streaming_reason

BATCHES, STEPS = (1, 2, 5), (1, 2, 3, 24, 60)
CUTS = 6  # random ways to cut one sequence
LONG = 400  # steps of the sequence that is cut
DRIFT = 5_000  # steps of one sequence in one piece


def verify(model: nn.Module, lifted: Lift, files: Mapping[str, Path], seed: int = 0) -> Report:
    """Compare the artefacts in `files`, by backend, with the eager model on inputs like the lift's example. Raises ParityError."""
    generator = torch.Generator().manual_seed(seed)
    checker = ParityChecker(model, lifted, generator)
    reason, limits = streaming_reason(lifted, generator), []
    found = list(checker.lift_differences())
    for backend, path in files.items():
        label, runner = LABELS[backend], open_artefact(backend, path)
        found += checker.grid_differences(label, runner)
        limits.append(input_limit(lifted, runner, checker.steps[0], generator))
        if not reason:
            found += checker.cut_differences(f"{label}, cut", runner)
            found += checker.drift_differences(f"{label}, long", runner)
    return Report(tuple(_largest(found)), reason, min(limits))


class ParityChecker:
    """Compare runners with one model and its lifted form, on inputs drawn from one generator."""

    def __init__(self, model: nn.Module, lifted: Lift, generator: torch.Generator) -> None:
        self._model, self._lifted, self._generator = model, lifted, generator
        self._eager = eager_runner(lifted)
        least, most = lifted.steps
        self.steps = [n for n in STEPS if least <= n <= (most or n)] or [least]

    def lift_differences(self) -> Iterator[Difference]:
        """Compare the lifted module, from the start of a stream, with the model as its user wrote it."""
        for batch, steps in itertools.product(BATCHES, self.steps):
            x = self._inputs(batch, steps)
            value = difference(self._eager(x, self._lifted.start(batch))[0], self._lifted.unmodified(self._model, x))
            yield Difference("lifted", "y", value, f"B={batch} T={steps}, start of a stream")

    def grid_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        """Compare the runner with the lifted module over batches, lengths and kinds of states."""
        for batch, steps in itertools.product(BATCHES, self.steps):
            x = self._inputs(batch, steps)
            for kind, states in self._kinds_of_states(batch):
                yield from self._compared(label, runner(x, states), self._eager(x, states), f"B={batch} T={steps}, {kind} state")

    def _kinds_of_states(self, batch: int) -> Iterator[tuple[str, Sequence[Tensor]]]:
        yield "initial", self._lifted.start(batch)
        random = self._lifted.random_states(batch, self._generator)
        yield "random", random
        limits = [1.0 if entry.name.endswith("h") else 8.0 for entry in self._lifted.state]
        yield "saturated", [torch.sign(state) * limit for state, limit in zip(random, limits, strict=True)]

    def cut_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        """Compare the runner on a sequence cut at random with the lifted module on the whole."""
        x, states = self._inputs(2, LONG), self._lifted.random_states(2, self._generator)
        whole = self._eager(x, states)
        for _ in range(CUTS):
            cuts = random_cuts(LONG, self._generator)
            pieces = run_in_pieces(runner, x, states, cuts, self._lifted.output_mode == "step")
            yield from self._compared(label, pieces, whole, f"B=2 T={LONG} in {len(cuts) + 1} pieces")

    def drift_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        """Compare the runner with the lifted module on one long sequence, where small differences could grow."""
        x, states = self._inputs(1, DRIFT), self._lifted.start(1)
        yield from self._compared(label, runner(x, states), self._eager(x, states), f"B=1 T={DRIFT}")

    def _inputs(self, batch: int, steps: int) -> Tensor:
        return self._lifted.inputs(batch, steps, self._generator)

    def _compared(self, label: str, actual: Sequence[Tensor], expected: Sequence[Tensor], where: str) -> Iterator[Difference]:
        for name, a, b in zip(self._lifted.output_names, actual, expected, strict=True):
            yield Difference(label, name, difference(a, b), where)


def _largest(found: Sequence[Difference]) -> Iterator[Difference]:
    """Keep the largest difference of each output of each artefact; a NaN is larger than any number."""
    groups: dict[tuple[str, str], Difference] = {}
    for d in found:
        best = groups.get((d.artefact, d.output))
        if best is None or (best.value <= best.value and not d.value <= best.value):
            groups[d.artefact, d.output] = d
    return iter(groups.values())
