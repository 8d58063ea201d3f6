"""Compare every artefact with the unmodified model, over batches, lengths, states and cuts. Differences are scaled: `export.difference`."""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.difference import difference
from export.errors import ParityError
from export.lift.lifted import Lift
from export.report import FROZEN, UNLIMITED, Difference, Report
from export.verify.input_range import input_limit
from export.verify.runners import LABELS, Runner, eager_runner, open_artefact, random_cuts, run_in_pieces
from export.verify.streaming import CHUNK, streaming_reason

BATCHES, STEPS = (1, 2, 5), (1, 2, 3, 7, 24, 60)
EVERY = 130  # each length up to this is compared when the tracer asks what a number that it took from the example depends on
CUTS = 6  # random ways to cut one sequence
LONG = 400  # steps of the sequence that is cut
LENGTHS = (100, CHUNK, 1_100, 5_000)  # steps of windows in one piece, and of streams in pieces of CHUNK
PROGRAM = LABELS["torch.export"]
PATIENCE = 5.0  # seconds that a window may take; no longer ones are tried, and T is bounded


def verify(model: nn.Module, lifted: Lift, files: Mapping[str, Path], seed: int = 0, questions: Sequence[str] = ()) -> Report:
    """Compare the artefacts in `files`, by backend, with the unmodified model on inputs like the lift's example. Raises ParityError.

    `questions` are lines at which the tracer took a Python number from a tensor: if there are any, every length up to 130 is compared.
    A torch.export program that disagrees is dropped, with the reason in the report: no server runs it. So is an ONNX file beside
    TorchScript: servers then run TorchScript.
    """
    generator = torch.Generator().manual_seed(seed)
    checker = ParityChecker(model, lifted, generator, every_length=bool(questions))
    reason, limits, signed = streaming_reason(lifted, generator), [], True
    found = list(checker.lift_differences())
    runners = {LABELS[backend]: open_artefact(backend, path) for backend, path in files.items()}
    program, dropped = runners.pop(PROGRAM, None), {}
    for label in list(runners):
        try:
            measured = list(checker.artefact_differences(label, runners[label], streams=not reason))
            found += _checked(measured) if label == LABELS["onnxruntime"] and "torchscript" in files else measured
        except ParityError as e:
            if label != LABELS["onnxruntime"] or "torchscript" not in files:
                raise
            dropped["onnxruntime"] = str(e)
            del runners[label]
            continue
        limits.append(input_limit(lifted, runners[label], checker.steps[0], generator))
    if not min(limits, default=1.0):  # with both signs; the example may have one
        signed = False
        limits = [input_limit(lifted, runner, checker.steps[0], generator, signed=False) for runner in runners.values()]
    if program is not None:
        try:
            found += _checked(checker.grid_differences(PROGRAM, program))
        except ParityError as e:
            dropped["torch.export"] = str(e)
    most = lifted.steps[1] if not reason or lifted.steps[1] is not None else checker.longest
    return Report(tuple(_largest(found)), reason, min(limits, default=UNLIMITED), signed, most, dropped)


def _checked(found: Iterable[Difference]) -> list[Difference]:
    """Return the differences, or raise ParityError for the largest that is over the tolerance."""
    differences = list(found)
    Report(tuple(_largest(differences)), "").check()
    return differences


class ParityChecker:
    """Compare runners with one model and its lifted form, on inputs drawn from one generator."""

    def __init__(self, model: nn.Module, lifted: Lift, generator: torch.Generator, every_length: bool = False) -> None:
        self._model, self._lifted, self._generator = model, lifted, generator
        self._eager = eager_runner(lifted)
        self._every = [n for n in range(1, EVERY) if every_length and self._takes(n)]
        self.steps = [n for n in STEPS if self._takes(n)] or [lifted.steps[0]]
        self._references = list(self._long_references())
        self.longest = max((x.shape[1] for x, _, _ in self._references), default=max(self.steps))

    def _takes(self, steps: int) -> bool:
        least, most = self._lifted.steps
        return least <= steps <= (most or steps)

    def _long_references(self) -> Iterator[tuple[Tensor, Sequence[Tensor], Tensor]]:
        """Yield inputs, states and the unmodified model's y: widened inputs, and long sequences until one takes too long."""
        least, most = self._lifted.steps
        for steps in sorted({min(most or 60, max(60, least)), *self._every}):
            yield self._referenced(self._lifted.sampler.widened(6 if steps == 60 else 1, steps, self._generator))
        for steps in [n for n in LENGTHS if self._takes(n)]:
            begun = time.monotonic()
            yield self._referenced(self._inputs(1, steps))
            if time.monotonic() - begun > PATIENCE:
                return

    def _referenced(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor], Tensor]:
        start = self._lifted.start(len(x))
        return x, start, self._lifted.unmodified(self._model, x, start)

    def lift_differences(self) -> Iterator[Difference]:
        """Compare the lifted module with the unmodified model: from the start of a stream, and from random states that it takes."""
        for batch, steps in itertools.product(BATCHES, self.steps):
            x = self._inputs(batch, steps)
            states = [("start of a stream", self._lifted.start(batch))]
            if self._lifted.states_are_arguments:
                states.append(("random state", self._lifted.random_states(batch, self._generator)))
            for kind, state in states:
                value = difference(self._eager(x, state)[0], self._lifted.unmodified(self._model, x, state))
                yield Difference("lifted", "y", value, f"B={batch} T={steps}, {kind}")

    def artefact_differences(self, label: str, runner: Runner, streams: bool) -> Iterator[Difference]:
        """Compare what a server runs with the model in every way. Raises ParityError where it fails."""
        self._check_runs(label, runner)
        yield from self.grid_differences(label, runner)
        yield from self.window_differences(label, runner, in_pieces=streams)
        if streams:
            yield from self.cut_differences(f"{label}, cut", runner)

    def _check_runs(self, label: str, runner: Runner) -> None:
        """Raise ParityError for an artefact that fails on the example: what fails there is no frozen size."""
        window = self._lifted.window()
        try:
            runner(window, self._lifted.start(len(window)))
        except ParityError as e:
            reason = str(e).removesuffix(f"; {FROZEN}")
            raise ParityError(f"{reason}: it holds an operation that it cannot run; write that operation with others") from e

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
        limits = [8.0 if entry.name.endswith("c") else 1.0 for entry in self._lifted.state]
        yield "saturated", [torch.sign(state) * limit for state, limit in zip(random, limits, strict=True)]

    def window_differences(self, label: str, runner: Runner, in_pieces: bool) -> Iterator[Difference]:
        """Compare the runner with the unmodified model on widened and long windows, in the pieces in which the service runs a stream."""
        for x, states, expected in self._references:
            rows = expected.flatten(1).isfinite().all(1)  # a widened input may leave the numbers
            if not rows.any():
                continue
            x, states = x[rows], [state[:, rows] for state in states]
            cuts = list(range(CHUNK, x.shape[1], CHUNK)) if in_pieces else []
            found = run_in_pieces(runner, x, states, cuts, self._lifted.output_mode == "step")[0]
            yield Difference(f"{label}, window", "y", difference(found, expected[rows]), f"B={len(x)} T={x.shape[1]}")

    def cut_differences(self, label: str, runner: Runner) -> Iterator[Difference]:
        """Compare the runner on a sequence cut at random with the lifted module on the whole."""
        x, states = self._inputs(2, LONG), self._lifted.random_states(2, self._generator)
        whole = self._eager(x, states)
        for _ in range(CUTS):
            cuts = random_cuts(LONG, self._generator)
            pieces = run_in_pieces(runner, x, states, cuts, self._lifted.output_mode == "step")
            yield from self._compared(label, pieces, whole, f"B=2 T={LONG} in {len(cuts) + 1} pieces")

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
